//! The optimizer with narrow formats: results, checkpoints, and errors.

use std::fs;

use half::bf16;
use lion::checkpoint::{Checkpoint, SavedVariable, Tensor};
use lion::prelude::*;
use lion::{Axes, Error, TensorMut, TensorRef};
use lion_tests::safetensors::tensors;
use lion_tests::{Rng, bits, checkpoint_text, ordinary};
use tempfile::tempdir;

fn refused<T: std::fmt::Debug>(result: Result<T, Error>, expected: &str) {
    assert_eq!(result.expect_err("refused").to_string(), expected);
}

/// Decay, an average that overwrites, a constraint: all that sees the parameter.
fn everything() -> lion::Builder {
    let schedule = CosineDecay::new(3e-4, 800.0).expect("valid");
    Lion::builder().learning_rate(schedule).weight_decay(0.1).ema(0.9).ema_overwrite_frequency(7)
}

/// The parameter in two halves goes where the one in f32 goes, for a thousand calls, of which some miss a gradient.
#[test]
fn a_split_run_is_the_f32_run() {
    const LEN: usize = 300;
    let mut rng = Rng::with_seed(5);
    for momentum in [Dtype::F32, Dtype::BF16, Dtype::Q8] {
        let builder = everything().momentum_dtype(momentum);
        let (mut whole, mut split) =
            (builder.clone().build().expect("valid"), builder.split_master(true).build().expect("valid"));
        let names = ["plain", "constrained"];
        let options = |name| VariableOptions {
            constraint: (name == "constrained").then(|| Constraint::max_norm(3.0, Axes::All).expect("valid")),
            ..Default::default()
        };
        let ids = names.map(|name| {
            let id = whole.register_with(name, &[LEN], Dtype::F32, options(name)).expect("registered");
            let other = split.register_with(name, &[LEN], Dtype::BF16, options(name)).expect("registered");
            assert_eq!(other, id);
            id
        });
        let mut parameters = ids.map(|_| ordinary::<f32>(&mut rng, LEN));
        let mut high = ids.map(|_| vec![bf16::ZERO; LEN]);
        for ((id, values), high) in ids.iter().zip(&parameters).zip(&mut high) {
            split.parameter_from_f32(*id, values, &mut high[..]).expect("its length");
        }
        for call in 0..1000 {
            let gradients = ids.map(|_| ordinary::<bf16>(&mut rng, LEN));
            let [a, b] = &mut parameters;
            apply(&mut whole, ids, [a.into(), b.into()], &gradients, call % 5);
            let [a, b] = &mut high;
            apply(&mut split, ids, [a.into(), b.into()], &gradients, call % 5);
        }
        for (id, expected) in ids.iter().zip(&parameters) {
            let mut values = vec![0.0; LEN];
            let of_id = &high[usize::from(*id != ids[0])];
            split.parameter_to_f32(*id, &of_id[..], &mut values).expect("its length");
            assert_eq!(bits(&values), bits(expected), "parameter with momentum in {momentum}");
            let momentum_of = |optimizer: &Lion| optimizer.momentum(*id).expect("it has one").to_f32();
            assert_eq!(bits(&momentum_of(&split)), bits(&momentum_of(&whole)), "momentum in {momentum}");
            let average =
                |optimizer: &Lion| bits(optimizer.view(*id).and_then(|it| it.ema).expect("it has one"));
            assert_eq!(average(&split), average(&whole), "average with momentum in {momentum}");
        }
    }
}

/// A call in which one variable may have no gradient.
fn apply(
    optimizer: &mut Lion,
    ids: [VariableId; 2],
    parameters: [TensorMut<'_>; 2],
    gradients: &[Vec<bf16>; 2],
    missing: usize,
) {
    let tensors = ids.into_iter().zip(parameters).zip(gradients).enumerate();
    let mut updates: Vec<_> = tensors
        .map(|(index, ((id, parameter), gradient))| match index == missing {
            true => Update::without_gradient(id, parameter),
            false => Update::new(id, parameter, gradient),
        })
        .collect();
    optimizer.apply(&mut updates).expect("applied");
}

/// The copy and the finished parameter are those of the joined value.
#[test]
fn copies_and_averages_are_of_the_joined_value() {
    let mut optimizer = everything().split_master(true).build().expect("valid");
    let id = optimizer.register("w", &[3], Dtype::BF16).expect("registered");
    let (values, mut high, mut copy) = ([1.001_f32, -2.002, 3.003], [bf16::ZERO; 3], [0.0_f32; 3]);
    optimizer.parameter_from_f32(id, &values, &mut high).expect("its length");
    // Out of place, without a gradient.
    let (source, mut target) = (high, [bf16::ZERO; 3]);
    let update = Update::without_gradient(id, &mut target).source(&source).copy(&mut copy);
    let other = optimizer.register("other", &[1], Dtype::BF16).expect("registered");
    let mut one = [bf16::ONE];
    optimizer.apply(&mut [update, Update::new(other, &mut one, &[1.0_f32])]).expect("applied");
    assert_eq!((copy, target), (values, high));
    let average = optimizer.view(id).and_then(|view| view.ema).expect("it has one").to_vec();
    assert_eq!(average, values);
    let updates = &mut [
        Update::without_gradient(id, &mut target).copy(&mut copy),
        Update::without_gradient(other, &mut one),
    ];
    optimizer.finalize_variable_values(updates).expect("finished");
    let mut found = [0.0; 3];
    optimizer.parameter_to_f32(id, &target, &mut found).expect("its length");
    assert_eq!((found, copy), (values, values));
}

#[test]
fn options_that_do_not_fit_a_variable() {
    let mut optimizer = Lion::builder().stochastic_rounding(3).build().expect("valid");
    refused(
        optimizer.register("norm", &[4], Dtype::F32),
        "variable \"norm\" is f32, and stochastic_rounding is for bf16 parameters; VariableOptions::nearest_rounding \
         leaves a variable out",
    );
    let left_out = VariableOptions { nearest_rounding: true, ..Default::default() };
    optimizer.register_with("norm", &[4], Dtype::F32, left_out.clone()).expect("left out");
    let mut optimizer = Lion::builder().split_master(true).build().expect("valid");
    refused(
        optimizer.register("norm", &[4], Dtype::F16),
        "variable \"norm\" is f16, and split_master is for bf16 parameters; VariableOptions::nearest_rounding leaves a \
         variable out",
    );
    let id = optimizer.register_with("norm", &[4], Dtype::BF16, left_out).expect("left out");
    assert!(optimizer.view(id).expect("registered").low.is_none());
    refused(
        optimizer.register("w", &[4], Dtype::Split),
        "variable \"w\" is split, and must be one of f32, f16, bf16",
    );
    let options = VariableOptions { momentum_dtype: Some(Dtype::I8), ..Default::default() };
    refused(
        optimizer.register_with("w", &[4], Dtype::BF16, options),
        "variable \"w\": the momentum's dtype is i8, and must be one of f32, f16, bf16, q8",
    );
    refused(
        Lion::builder().split_master(true).stochastic_rounding(1).build(),
        "split_master is true, and must be false beside stochastic_rounding",
    );
    let mut config = Config::default();
    config.decay_scale = DecayScale::Relative(-1.0);
    refused(
        config.check(),
        "decay_scale is \"relative:-1.0\", and must be lr, relative:TO or corrected:TO, with TO in (0, inf)",
    );
    config = Config::default();
    config.momentum_dtype = Some(Dtype::Split);
    refused(config.check(), "momentum_dtype is \"split\", and must be one of f32, f16, bf16, q8");
    let group = Group::new().decay_scale(DecayScale::Corrected(f64::NAN));
    refused(optimizer.add_group(group), "decay_scale is NaN, and must be in (0, inf)");
}

/// A block of 64 shares a scale, and random numbers are drawn for neighbours.
#[test]
fn ranges_that_cut_a_block() {
    let mut optimizer = Lion::builder().momentum_dtype(Dtype::Q8).build().expect("valid");
    let id = optimizer.register("w", &[200], Dtype::F32).expect("registered");
    let (mut p, g) = (vec![0.0_f32; 200], vec![1.0_f32; 200]);
    let mut apply = |optimizer: &mut Lion, range: std::ops::Range<usize>| {
        let len = range.len();
        optimizer.apply(&mut [Update::new(id, &mut p[..len], &g[..len]).range(range)]).map(drop)
    };
    refused(
        apply(&mut optimizer, 64..100),
        "variable \"w\": the range 64..100 cuts a block of its momentum; expected multiples of 64 or the end",
    );
    apply(&mut optimizer, 64..200).expect("whole blocks");
    let options = VariableOptions { shard: Some(1..64), ..Default::default() };
    refused(
        optimizer.register_with("shard", &[200], Dtype::F32, options),
        "variable \"shard\": the range 1..64 cuts a block of its momentum; expected multiples of 64 or the end",
    );
    let mut stochastic = Lion::builder().stochastic_rounding(1).build().expect("valid");
    let id = stochastic.register("w", &[200], Dtype::BF16).expect("registered");
    let (mut p, g) = ([bf16::ONE; 8], [bf16::ONE; 8]);
    refused(
        stochastic.apply(&mut [Update::new(id, &mut p, &g).range(8..16)]),
        "variable \"w\": the range 8..16 cuts a block of its random numbers; expected multiples of 64 or the end",
    );
}

#[test]
fn a_gradient_of_another_format_changes_nothing() {
    let mut optimizer = Lion::builder().build().expect("valid");
    let ids = ["a", "b"].map(|name| optimizer.register(name, &[2], Dtype::F32).expect("registered"));
    let (mut a, mut b) = ([1.0_f32; 2], [1.0_f32; 2]);
    let updates = &mut [Update::new(ids[0], &mut a, &[1.0_f32; 2]), Update::new(ids[1], &mut b, &[1_i8; 2])];
    refused(optimizer.apply(updates), "variable \"b\": the gradient is i8; expected one of f32, f16, bf16");
    assert_eq!((a, optimizer.iterations()), ([1.0; 2], 0));
}

/// Bf16 ones under a learning rate that nearest rounding swallows.
fn trained(builder: lion::Builder, calls: usize) -> (Lion, Vec<bf16>) {
    let mut optimizer = builder.learning_rate(1e-3).build().expect("valid");
    let id = optimizer.register("w", &[1000], Dtype::BF16).expect("registered");
    let (mut parameter, gradient) = (vec![bf16::ONE; 1000], vec![bf16::ONE; 1000]);
    for _ in 0..calls {
        optimizer.apply(&mut [Update::new(id, &mut parameter, &gradient)]).expect("applied");
    }
    (optimizer, parameter)
}

#[test]
fn stochastic_rounding_moves_what_nearest_rounding_does_not() {
    let mean = |parameter: &[bf16]| parameter.iter().map(|value| value.to_f32()).sum::<f32>() / 1000.0;
    let (_, nearest) = trained(Lion::builder(), 100);
    assert_eq!(mean(&nearest), 1.0);
    let (_, stochastic) = trained(Lion::builder().stochastic_rounding(1), 100);
    assert!((mean(&stochastic) - 0.9).abs() < 0.005, "{}", mean(&stochastic));
    let (split, high) = trained(Lion::builder().split_master(true), 100);
    assert!((mean(&high) - 0.9).abs() < 0.005, "{}", mean(&high));
    let id = split.variable("w").expect("registered");
    assert_eq!(split.stalled_fraction(id, &high[..]).expect("its parameter"), 0.0);
    // The seed decides.
    let again = |seed| trained(Lion::builder().stochastic_rounding(seed), 3).1;
    assert_eq!(again(5), again(5));
    assert_ne!(again(5), again(6));
}

#[test]
fn metrics_tell_what_stalls() {
    let stalled = |builder: lion::Builder| {
        let mut optimizer = builder.learning_rate(1e-3).build().expect("valid");
        let id = optimizer.register("w", &[4], Dtype::BF16).expect("registered");
        let mut parameter = [1.0, 1.0, 1.0, 0.01].map(bf16::from_f32);
        let mut apply = || optimizer.apply(&mut [Update::new(id, &mut parameter, &[1.0_f32; 4])]);
        (0..4).map(|_| apply().expect("applied").stalled_fraction).collect::<Vec<_>>()
    };
    // In the updates 1, 2 and 4.
    assert_eq!(stalled(Lion::builder()), [Some(0.75), Some(0.75), None, Some(0.75)]);
    assert_eq!(stalled(Lion::builder().stochastic_rounding(1)), [Some(0.0), Some(0.0), None, Some(0.0)]);
    assert_eq!(stalled(Lion::builder().split_master(true)), [Some(0.0), Some(0.0), None, Some(0.0)]);
}

/// A rate of 0.5 relative to 0.25 doubles the decay; corrected to 1 it is squared.
#[test]
fn the_scale_of_decay_of_optimizer_and_group() {
    let after = |builder: lion::Builder, group: Group| {
        let mut optimizer = builder.learning_rate(0.5).weight_decay(0.1).build().expect("valid");
        let group = optimizer.add_group(group).expect("valid");
        let options = VariableOptions { group, ..Default::default() };
        let id = optimizer.register_with("w", &[2], Dtype::F32, options).expect("registered");
        let mut parameter = [2.0_f32, -2.0];
        optimizer.apply(&mut [Update::new(id, &mut parameter, &[1.0_f32; 2])]).expect("applied");
        parameter
    };
    let decayed = |scale: f32| [2.0 - 2.0 * 0.1 * scale - 0.5, -(2.0 - 2.0 * 0.1 * scale) - 0.5];
    let (relative, corrected) = (DecayScale::Relative(0.25), DecayScale::Corrected(1.0));
    assert_eq!(after(Lion::builder(), Group::new()), decayed(0.5));
    assert_eq!(after(Lion::builder().decay_scale(relative), Group::new()), decayed(2.0));
    assert_eq!(after(Lion::builder(), Group::new().decay_scale(corrected)), decayed(0.25));
    // Only the first element is moved towards zero.
    let cautious = [decayed(0.5)[0], -2.5];
    assert_eq!(after(Lion::builder().cautious_decay(true), Group::new()), cautious);
    assert_eq!(after(Lion::builder(), Group::new().cautious_decay(true)), cautious);
    assert_eq!(after(Lion::builder().cautious_decay(true), Group::new().cautious_decay(false)), decayed(0.5));
}

#[test]
fn a_checkpoint_holds_all_of_it() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    for builder in [
        Lion::builder().momentum_dtype(Dtype::Q8).stochastic_rounding(u64::MAX),
        Lion::builder().momentum_dtype(Dtype::Q8).split_master(true),
    ] {
        let (optimizer, _) = trained(builder.clone(), 3);
        optimizer.checkpoint().expect("no open step").write(&path).expect("written");
        let read = Checkpoint::read(&path).expect("read");
        assert_eq!(checkpoint_text(&read), checkpoint_text(&optimizer.checkpoint().expect("no open step")));
        let config = read.config().expect("valid").expect("it has one");
        let mut resumed = Lion::from_config(config).expect("valid");
        resumed.register("w", &[1000], Dtype::BF16).expect("registered");
        resumed.restore(&read).expect("restored");
        assert_eq!(checkpoint_text(&resumed.checkpoint().expect("no open step")), checkpoint_text(&read));
        let text = String::from_utf8_lossy(&fs::read(&path).expect("read")).into_owned();
        assert!(text.contains(r#""format_version":"2""#));
    }
    // A run that needs nothing of it writes what older programs read.
    let (plain, _) = trained(Lion::builder(), 1);
    plain.checkpoint().expect("no open step").write(&path).expect("written");
    assert!(String::from_utf8_lossy(&fs::read(&path).expect("read")).contains(r#""format_version":"1""#));
}

#[test]
fn a_checkpoint_of_another_seed_or_format() {
    let (optimizer, _) = trained(Lion::builder().stochastic_rounding(7), 1);
    let mut checkpoint = optimizer.checkpoint().expect("no open step");
    let other = |builder: lion::Builder| trained(builder, 0).0;
    refused(
        other(Lion::builder()).restore(&checkpoint),
        "seed: is 7, and must be none as the optimizer's stochastic_rounding",
    );
    refused(
        other(Lion::builder().stochastic_rounding(8)).restore(&checkpoint),
        "seed: is 7, and must be 8 as the optimizer's stochastic_rounding",
    );
    checkpoint.seed = None;
    refused(
        other(Lion::builder().stochastic_rounding(7)).restore(&checkpoint),
        "seed: is none, and must be 7 as the optimizer's stochastic_rounding",
    );
    refused(other(Lion::builder().split_master(true)).restore(&checkpoint), "low/w: is missing");
    let mut q8 = other(Lion::builder().momentum_dtype(Dtype::Q8));
    refused(
        q8.restore(&checkpoint),
        "momentum/w: is bf16, and must be q8 as the optimizer's; Checkpoint::convert_momentum converts it",
    );
    checkpoint.convert_momentum(Dtype::Q8).expect("converted");
    q8.restore(&checkpoint).expect("restored");
    checkpoint.convert_momentum(Dtype::BF16).expect("converted");
    other(Lion::builder()).restore(&checkpoint).expect("restored");
    refused(
        checkpoint.convert_momentum(Dtype::Split),
        "variable \"w\": the momentum's dtype is split, and must be one of f32, f16, bf16, q8",
    );
}

/// Files with tensors that do not belong together.
#[test]
fn files_that_are_wrong() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    let (codes, scale) = ([1_i8; 65], [0.5_f32, 0.25]);
    let refused = |all: &[(&str, &[usize], TensorRef<'_>)], expected: &str| {
        let all: Vec<_> =
            all.iter().map(|(name, shape, values)| (name.to_string(), *shape, *values)).collect();
        let mut file = tensors(&all);
        // The metadata that makes it a checkpoint.
        let length = u64::from_le_bytes(file[..8].try_into().expect("eight")) as usize;
        let header = String::from_utf8(file[8..8 + length].to_vec()).expect("UTF-8");
        let header = format!(r#"{{"__metadata__":{{"iterations":"1"}},{}"#, &header[1..]);
        let mut whole = (header.len() as u64).to_le_bytes().to_vec();
        whole.extend(header.as_bytes());
        whole.extend(file.split_off(8 + length));
        fs::write(&path, whole).expect("written");
        let error = Checkpoint::read(&path).expect_err("refused").to_string();
        assert_eq!(error, format!("{}: {expected}", path.display()));
    };
    let of_codes = ("momentum/w", &[65][..], TensorRef::from(&codes));
    refused(&[of_codes], "momentum/w: is i8, and its momentum_scale is missing");
    refused(
        &[("momentum_scale/w", &[2], TensorRef::from(&scale))],
        "momentum_scale/w: is present, and its momentum is not i8",
    );
    refused(
        &[of_codes, ("momentum_scale/w", &[1], TensorRef::from(&scale[..1]))],
        "momentum_scale/w: has the shape [1], and must have [2], one scale for each 64 elements",
    );
    for (bad, shown) in [(-0.5_f32, "-0.5"), (-0.0, "-0"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let scale = [0.5, bad];
        refused(
            &[of_codes, ("momentum_scale/w", &[2], TensorRef::from(&scale))],
            &format!("momentum_scale/w: the scale of block 1 is {shown}, and must be in [0, inf)"),
        );
    }
    let low = [0_i16; 3];
    refused(
        &[("low/w", &[3], TensorRef::from(&low)), ("momentum/w", &[2], TensorRef::from(&scale))],
        "momentum/w: has the shape [2], and low/w has [3]",
    );
    refused(&[("low/w", &[2], TensorRef::from(&scale))], "low/w: is f32, and must be i16");
    refused(
        &[("param/w", &[3], TensorRef::from(&low))],
        "param/w: is i16, and must be one of f32, f16, bf16",
    );
    refused(&[("ema/w", &[3], TensorRef::from(&low))], "ema/w: is i16, and must be f32");
}

/// A low half of the wrong shape that a program hands over.
#[test]
fn a_low_half_of_another_shape() {
    let (mut optimizer, _) = trained(Lion::builder().split_master(true), 1);
    let mut state = SavedVariable::new("w", &[1000]);
    let (momentum, low) = (vec![bf16::ZERO; 1000], [0_i16; 999]);
    (state.momentum, state.low) = (Some(Tensor::from(&momentum)), Some(Tensor::from(&low)));
    let checkpoint = Checkpoint { variables: vec![state], ..Checkpoint::default() };
    refused(optimizer.restore(&checkpoint), "low/w: has 999 elements");
}
