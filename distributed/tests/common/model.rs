//! A model in several formats, with borders of shards within variables.
#![allow(dead_code)]

use lion::{Dtype, TensorBuf};
use lion_distributed::Layout;
use lion_tests::model::{Clip, DecayScale, Options, Rule, Scale};
use lion_tests::scenario::{Scenario, Variable};
use lion_tests::{Rng, fill};

use super::Training;

/// Whether the training can be shared by as many ranks.
pub(crate) fn fits(training: &Training, ranks: usize) -> bool {
    training.leaves.is_multiple_of(ranks) && Layout::new(&training.lengths(), ranks).is_ok()
}

/// A model of 13 blocks in three formats, with borders of shards within variables, and gradients missing at times.
pub(crate) fn model(options: Options, momentum_dtype: Option<Dtype>, calls: usize) -> Scenario {
    let mut rng = Rng::with_seed(11);
    let rows: [(&[usize], Dtype, Option<Rule>); 6] = [
        (&[5, 4099], Dtype::F32, None),
        (&[], Dtype::F32, None),
        (&[2, 6151], Dtype::BF16, Some(Rule::NonNegative)),
        (&[0], Dtype::F16, None),
        (&[4096], Dtype::F16, None),
        (&[3, 7], Dtype::F32, None),
    ];
    let mut made = |dtype, len| {
        let mut made = TensorBuf::zeroed(dtype, len).expect("memory");
        fill(&mut rng, &mut made.to_mut(), false);
        made
    };
    let variable = |(index, &(shape, dtype, rule)): (usize, &(&[usize], Dtype, Option<Rule>))| Variable {
        name: format!("{}.{index}", char::from(b'a' + index as u8)),
        shape: shape.to_vec(),
        values: made(dtype, shape.iter().product()),
        excluded_from_weight_decay: index == 4,
        overwritten: false,
        rule,
        multiplier: (index == 2).then_some(0.5),
    };
    let variables: Vec<_> = rows.iter().enumerate().map(variable).collect();
    let gradients = (0..calls).map(|call| {
        let of = |(index, variable): (usize, &Variable)| {
            let missing = (call + index) % 4 == 3;
            let dtype = [Dtype::F32, Dtype::F16, Dtype::BF16][(call + index) % 3];
            let mut gradient = (!missing).then(|| made(dtype, variable.values.len()));
            // A value that is not finite, on one leaf of one rank: a dynamic loss scale skips the call.
            if let (Some(gradient), 2, 0) = (&mut gradient, call, index) {
                gradient.to_mut().write_f32(4100, &[f32::NAN]).expect("within");
            }
            gradient
        };
        variables.iter().enumerate().map(of).collect()
    });
    Scenario {
        options,
        momentum_dtype,
        stochastic_rounding: None,
        split_master: false,
        threads: 0,
        gradients: gradients.collect(),
        variables,
    }
}

pub(crate) fn plain() -> Options {
    Options {
        learning_rates: vec![0.01, 0.02, 0.03],
        beta_1: 0.9,
        beta_2: 0.99,
        weight_decay: Some(0.1),
        cautious_decay: false,
        decay_scale: DecayScale::LearningRate,
        clip: Clip::Off,
        ema_momentum: None,
        ema_overwrite_frequency: None,
        ema_every_update: false,
        scale: Scale::Off,
        accumulation_steps: None,
    }
}
