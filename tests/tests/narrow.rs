//! Narrow formats compared bit for bit with the reference: stochastic rounding, the exact split, 8-bit momentum, each
//! combined with every other format.

use half::bf16;
use lion_kernels::reference::{self, Float, Settings};
use lion_kernels::{
    Backend, Dtype, Error, LionStep, Plan, Role, STATISTICS_BLOCK, StepTensors, StochasticRounding, Task,
    TensorMut, TensorRef, run,
};
use lion_tests::alone::convert;
use lion_tests::{Draws, PLAIN, Rng, Stored, StoredCase, on_each_backend, values};
use proptest::prelude::*;

on_each_backend!(
    every_length,
    every_misalignment,
    every_option,
    cut_for_threads,
    any_settings,
    every_code_of_q8,
    every_code_of_q8_in_a_step,
    every_boundary_of_q8_in_a_step,
    every_pair_of_halves,
    the_rounding_is_unbiased,
    a_nan_spoils_its_own_element,
);

const DECAYED: Settings = Settings { weight_decay: Some(0.1), decay_rate: Some(0.25), ..PLAIN };

const FULL: Settings = Settings {
    loss_scale: Some(3.0),
    accumulation_steps: Some(3),
    global_clip_norm: Some((1.5, 2.0)),
    ema_momentum: Some(0.99),
    masked_decay: true,
    ..DECAYED
};

/// Returns the rounding of a step over a variable from a random element on.
fn draws(rng: &mut Rng) -> Draws {
    // Includes the boundaries of the index's low half.
    let first =
        [0, 1 << 33, (1 << 33) - STATISTICS_BLOCK as u64, STATISTICS_BLOCK as u64 * rng.u64(..1 << 40)]
            [rng.usize(..4)];
    let name = ["w", "layers.0/kernel", "größe"][rng.usize(..3)];
    Draws { seed: rng.u64(..), name, call: rng.u64(..1 << 40), first }
}

/// Returns the formats of parameter, gradient and momentum, and whether rounding is stochastic: all combinations with
/// at least one narrow format.
fn combinations() -> impl Iterator<Item = ([Dtype; 3], bool)> {
    let parameters = Dtype::for_role(Role::Parameter).map(|it| (it, false)).chain([(Dtype::BF16, true)]);
    parameters.flat_map(|(parameter, stochastic)| {
        Dtype::for_role(Role::Gradient).flat_map(move |gradient| {
            Dtype::for_role(Role::Momentum).filter_map(move |momentum| {
                let new = stochastic || parameter == Dtype::Split || momentum == Dtype::Q8;
                new.then_some(([parameter, gradient, momentum], stochastic))
            })
        })
    })
}

#[test]
fn there_are_33_new_combinations() {
    assert_eq!(combinations().count(), 33);
}

fn case(rng: &mut Rng, pass: Settings, dtypes: [Dtype; 3], stochastic: bool, len: usize) -> StoredCase {
    let copy = [None, Some(Dtype::BF16), Some(Dtype::F32)][rng.usize(..3)];
    StoredCase {
        pass,
        dtypes,
        copy: copy.filter(|_| pass.ema_momentum.is_some()),
        draws: stochastic.then(|| draws(rng)),
        values: std::array::from_fn(|_| values::<f32>(rng, len)),
        misalignment: [rng.usize(..64), rng.usize(..64), rng.usize(..64)],
    }
}

fn by(backend: Backend) -> impl FnOnce(LionStep, StepTensors<'_>, u64) -> Result<(), Error> {
    move |step, tensors, first| Task::step(step, tensors)?.starting_at(first)?.run(backend)
}

/// Four blocks of q8 and one element, which is more than four chunks of any backend.
fn every_length(backend: Backend) {
    let mut rng = Rng::with_seed(0x1001);
    for (dtypes, stochastic) in combinations() {
        for len in 0..=4 * 64 + 1 {
            for pass in [PLAIN, DECAYED, FULL] {
                case(&mut rng, pass, dtypes, stochastic, len).check(len % 2 == 0, by(backend));
            }
        }
    }
}

fn every_misalignment(backend: Backend) {
    let mut rng = Rng::with_seed(0x1002);
    for (dtypes, stochastic) in combinations() {
        for tensor in 0..3 {
            for misalignment in 0..64 {
                let mut case = case(&mut rng, PLAIN, dtypes, stochastic, 67);
                case.misalignment = [0; 3];
                case.misalignment[tensor] = misalignment;
                case.check(true, by(backend));
            }
        }
    }
}

fn every_option(backend: Backend) {
    let mut rng = Rng::with_seed(0x1003);
    let options: [fn(Settings) -> Settings; 9] = [
        |pass| Settings { learning_rate: 0.0, ..pass },
        |pass| Settings { maximize: true, ..pass },
        |pass| Settings { masked_decay: true, ..pass },
        |pass| Settings { loss_scale: Some(1024.0), ..pass },
        |pass| Settings { accumulation_steps: Some(4), ..pass },
        |pass| Settings { clip_value: Some(0.25), ..pass },
        |pass| Settings { clip_norm: Some((1.0, 7.0)), ..pass },
        |pass| Settings { ema_momentum: Some(0.9), ..pass },
        |pass| Settings { ema_momentum: Some(0.9), ema_overwrite: true, ..pass },
    ];
    for (dtypes, stochastic) in combinations() {
        for pass in [PLAIN, DECAYED] {
            for option in options {
                for len in [53, 600] {
                    case(&mut rng, option(pass), dtypes, stochastic, len).check(true, by(backend));
                }
            }
        }
    }
}

/// Tensors of several blocks, on one and on several threads, as one task and as two.
fn cut_for_threads(backend: Backend) {
    let mut rng = Rng::with_seed(0x1004);
    for (dtypes, stochastic) in combinations() {
        for threads in [1, 3] {
            let pass = if threads == 1 { PLAIN } else { FULL };
            let case = case(&mut rng, pass, dtypes, stochastic, 3 * STATISTICS_BLOCK + 77);
            let plan =
                Plan::new(backend).threads(threads).chunk_elements(STATISTICS_BLOCK).parallel_threshold(0);
            case.check(true, |step, tensors, first| {
                run(&plan, &mut [Task::step(step, tensors)?.starting_at(first)?])
            });
        }
    }
}

fn any_settings(backend: Backend) {
    let combinations: Vec<_> = combinations().collect();
    let strategy = (
        (0..combinations.len(), 0_usize..2000, any::<u64>(), any::<bool>()),
        (
            0.0_f32..10.0,
            1e-3_f32..=1.0,
            0.0_f32..=1.0,
            prop::option::of(0.0_f32..2.0),
            prop::option::of(0.0_f32..2.0),
        ),
        (
            any::<bool>(),
            prop::option::of(1e-6_f32..1e6),
            prop::option::of(2_u32..100),
            prop::option::of(0.0_f32..=1.0),
        ),
    );
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) };
    proptest!(config, |(((index, len, seed, in_place), rates, rest) in strategy)| {
        let (dtypes, stochastic) = combinations[index];
        let (learning_rate, beta_1, beta_2, weight_decay, decay_rate) = rates;
        let (masked_decay, loss_scale, accumulation_steps, ema_momentum) = rest;
        let pass = Settings {
            learning_rate, beta_1, beta_2, weight_decay, decay_rate, masked_decay, loss_scale, accumulation_steps,
            ema_momentum, ema_overwrite: seed % 2 == 0, ..PLAIN
        };
        let mut rng = Rng::with_seed(seed);
        case(&mut rng, pass, dtypes, stochastic, len).check(in_place, by(backend));
    });
}

/// Converts values to a format and back, with a backend.
fn stored(backend: Backend, dtype: Dtype, values: &[f32]) -> Stored {
    let mut found = Stored::new(dtype, &vec![0.0; values.len()], 3);
    convert(backend, values, found.tensor_mut()).expect("equal lengths");
    found
}

/// Each code at many scales decodes as in the reference, and encodes to itself if the block contains its largest value.
fn every_code_of_q8(backend: Backend) {
    let mut rng = Rng::with_seed(0x1005);
    let ends = [f32::MIN_POSITIVE, f32::MAX, 1.0, 1e-30, f32::from_bits(0x0080_0001), 0.0];
    let scales = ends.into_iter().chain((0..300).map(|_| f32::from_bits(rng.u32(0x0080_0000..0x7f80_0000))));
    for scale in scales {
        let codes: Vec<i8> =
            (i8::MIN..=i8::MAX).flat_map(|code| [127; 63].into_iter().chain([code])).collect();
        let scales = vec![scale; codes.len() / 64];
        let tensor = TensorRef::from_streams(Dtype::Q8, &codes, &scales).expect("its streams");
        let mut found = vec![0.0; codes.len()];
        convert(backend, tensor, TensorMut::from(&mut found)).expect("equal lengths");
        let expected = reference::q8_decode(&codes, &scales);
        assert_eq!(lion_tests::bits(&found), lion_tests::bits(&expected), "scale {scale:e}");
        // The smallest code is 4e-9 of the scale. Below 2^-98 it is subnormal, with fewer significant bits.
        if scale >= 2.0_f32.powi(-98) {
            let again = stored(backend, Dtype::Q8, &found);
            let again = again.tensor().stream(0).expect("codes").as_slice::<i8>().expect("i8");
            let changed = codes.iter().zip(again).find(|(code, again)| code != again);
            assert_eq!(changed, None, "scale {scale:e}");
        }
    }
}

/// Checks steps of zero parameters with 8-bit momentum, in the formats with kernels of their own.
fn check_q8(backend: Backend, beta_2: f32, gradient: &[f32], momentum: &[f32]) {
    let zeros = vec![0.0; momentum.len()];
    for (parameter, of_gradient) in
        [(Dtype::F32, Dtype::F32), (Dtype::F32, Dtype::BF16), (Dtype::BF16, Dtype::BF16)]
    {
        let case = StoredCase {
            pass: Settings { beta_2, ..PLAIN },
            dtypes: [parameter, of_gradient, Dtype::Q8],
            copy: None,
            draws: None,
            values: [zeros.clone(), gradient.to_vec(), momentum.to_vec(), zeros.clone(), zeros.clone()],
            misalignment: [0; 3],
        };
        case.check(true, by(backend));
    }
}

/// A step decodes each code as the reference does, with and without codes of NaN in its group.
fn every_code_of_q8_in_a_step(backend: Backend) {
    let mut rng = Rng::with_seed(0x1007);
    for scale in [f32::MIN_POSITIVE, 1e-30, 1.0, f32::MAX].into_iter().chain((0..20).map(|_| rng.f32() + 0.1))
    {
        for from in [i8::MIN, -127] {
            let codes: Vec<i8> = (from..=i8::MAX).cycle().take(3 * 256 + 70).collect();
            let mut momentum = reference::q8_decode(&codes, &vec![scale; codes.len().div_ceil(64)]);
            for block in momentum.chunks_mut(64) {
                block[0] = scale;
            }
            check_q8(backend, 0.99, &vec![0.0; codes.len()], &momentum);
        }
    }
}

/// A step encodes the numbers on both sides of each boundary between two codes as the reference does.
fn every_boundary_of_q8_in_a_step(backend: Backend) {
    let mut rng = Rng::with_seed(0x1008);
    for largest in [1e-30, 1.0, f32::MAX, 0.1 + rng.f32(), 0.1 + rng.f32(), 0.1 + rng.f32()] {
        let code_of = |bits: u32| reference::q8_encode(&[largest, f32::from_bits(bits)]).0[1];
        let mut gradient = Vec::new();
        for code in 1..=127 {
            // The bits of the smallest number with this code or a larger one.
            let (mut below, mut bits) = (0, largest.to_bits());
            while bits - below > 1 {
                let between = below + (bits - below) / 2;
                if code_of(between) < code { below = between } else { bits = between }
            }
            gradient
                .extend((bits - 3..bits + 3).flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)]));
        }
        for block in gradient.chunks_mut(64) {
            block[rng.usize(..block.len())] = largest;
        }
        check_q8(backend, 0.0, &gradient, &vec![0.0; gradient.len()]);
        // With NaNs and infinities in some groups.
        for value in gradient.iter_mut().step_by(641) {
            *value = [f32::NAN, f32::INFINITY, -f32::INFINITY, -f32::NAN][rng.usize(..4)];
        }
        check_q8(backend, 0.0, &gradient, &vec![0.0; gradient.len()]);
    }
}

/// Every high half combined with low halves of each kind, and every low half with high halves of each kind.
fn every_pair_of_halves(backend: Backend) {
    let mut rng = Rng::with_seed(0x1006);
    let lows: Vec<i16> =
        [i16::MIN, -1, 0, 1, i16::MAX].into_iter().chain((0..3).map(|_| rng.i16(..))).collect();
    let some: Vec<u16> = [0, 0x8000, 0x7f7f, 0x7f80, 0xff80, 0x7fc0, 0x0001, 0x3f80].to_vec();
    let every = (0..=u16::MAX).flat_map(|high| lows.iter().map(move |&low| (high, low)));
    let pairs = every.chain(some.iter().flat_map(|&high| (i16::MIN..=i16::MAX).map(move |low| (high, low))));
    let (high, low): (Vec<bf16>, Vec<i16>) = pairs.map(|(high, low)| (bf16::from_bits(high), low)).unzip();
    let tensor = TensorRef::from_streams(Dtype::Split, &high, &low).expect("its streams");
    let mut found = vec![0.0; high.len()];
    convert(backend, tensor, TensorMut::from(&mut found)).expect("equal lengths");
    let expected: Vec<f32> = high.iter().zip(&low).map(|(&high, &low)| reference::join(high, low)).collect();
    assert_eq!(lion_tests::bits(&found), lion_tests::bits(&expected));
    let again = stored(backend, Dtype::Split, &found);
    again.assert_same(&Stored::new(Dtype::Split, &expected, 3), "split again");
}

/// Rounds a value between two bfloat16 numbers: the step reaches it from the nearest one.
fn rounded(backend: Backend, value: f32, indices: u64, call: u64) -> Vec<bf16> {
    let len = indices as usize;
    let mut parameter = vec![bf16::from_f32(value); len];
    let (gradient, mut momentum) = (vec![bf16::ZERO; len], vec![bf16::ZERO; len]);
    // From the nearest bfloat16 to the value: c is positive, so the step subtracts the difference.
    let difference = bf16::from_f32(value).to_f32() - value;
    momentum.fill(if difference > 0.0 { bf16::ONE } else { bf16::NEG_ONE });
    let step = LionStep::new(difference.abs(), 0.9, 0.99).expect("valid");
    let step = step.stochastic_rounding(StochasticRounding::new(11, "p", call));
    let mut task =
        Task::step(step, StepTensors::in_place(&mut parameter, &gradient, &mut momentum)).expect("fits");
    task.run(backend).expect("a step");
    parameter
}

/// The mean of many draws is the value, within the statistical error.
fn the_rounding_is_unbiased(backend: Backend) {
    for value in [1.001_f32, -0.300_9, 3.1e-5, 65_500.3, -1.999_999] {
        const DRAWS: u64 = 1 << 18;
        let found = rounded(backend, value, DRAWS, 3);
        let below = bf16::from_bits((value.to_bits() >> 16) as u16);
        let above = bf16::from_bits((value.to_bits() >> 16) as u16 + 1);
        let ups = found.iter().filter(|&&it| it == above).count();
        assert_eq!(ups + found.iter().filter(|&&it| it == below).count(), found.len(), "only neighbours");
        let expected = f64::from(value.to_bits() & 0xffff) / 65536.0;
        let share = ups as f64 / DRAWS as f64;
        let deviation = (expected * (1.0 - expected) / DRAWS as f64).sqrt();
        assert!((share - expected).abs() < 5.0 * deviation, "{value}: {share} of {expected} up");
    }
}

/// Over all 2^16 random numbers, the sum of the rounded values equals the exact sum.
#[test]
fn the_mean_over_all_draws_is_the_value() {
    for bits in [0x3f80_0001_u32, 0x3f80_8000, 0x3f80_ffff, 0xbe12_3456, 0x0000_0001, 0x0041_1234] {
        let up =
            (0..1_u64 << 16).filter(|draw| (u64::from(bits) + draw) >> 16 != u64::from(bits) >> 16).count();
        assert_eq!(up, (bits & 0xffff) as usize, "{bits:#x}");
    }
}

fn a_nan_spoils_its_own_element(backend: Backend) {
    let len = 1000;
    let (mut p, mut g) = (vec![bf16::ONE; len], vec![bf16::ONE; len]);
    (g[70], g[71], g[600]) = (bf16::NAN, bf16::INFINITY, bf16::NAN);
    let mut momentum = Stored::new(Dtype::Q8, &vec![0.5; len], 0);
    let step = LionStep::new(0.5, 0.9, 0.99).expect("valid");
    let mut task = Task::step(step, StepTensors::in_place(&mut p, &g, momentum.tensor_mut())).expect("fits");
    task.run(backend).expect("a step");
    for (index, (p, m)) in p.iter().zip(momentum.values()).enumerate() {
        assert_eq!(p.is_nan(), [70, 600].contains(&index), "parameter {index}");
        assert_eq!(m.is_nan(), [70, 71, 600].contains(&index), "momentum {index}");
        assert!(m.is_nan() || (m - 0.505).abs() < 0.01, "momentum {index} is {m}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let text = |found: Result<Task<'_>, Error>| found.unwrap_err().to_string();
    let (mut p, g, mut m) = ([0.0_f32; 8], [0.0_f32; 8], [0.0_f32; 8]);
    let step = LionStep::new(0.5, 0.9, 0.99).expect("valid");
    let stochastic = step.stochastic_rounding(StochasticRounding::new(0, "p", 0));
    assert_eq!(
        text(Task::step(stochastic, StepTensors::in_place(&mut p, &g, &mut m))),
        "the parameter is f32; expected bf16, for stochastic rounding"
    );
    let mut q8 = Stored::new(Dtype::Q8, &[0.0; 8], 0);
    assert_eq!(
        text(Task::step(step, StepTensors::in_place(q8.tensor_mut(), &g, &mut m))),
        "the parameter is q8; expected one of f32, f16, bf16, split"
    );
    let mut split = Stored::new(Dtype::Split, &[0.0; 8], 0);
    assert_eq!(
        text(Task::step(step, StepTensors::in_place(&mut p, &g, split.tensor_mut()))),
        "the momentum is split; expected one of f32, f16, bf16, q8"
    );
    assert_eq!(
        text(Task::step(step, StepTensors::in_place(&mut p, q8.tensor(), &mut m))),
        "the gradient is q8; expected one of f32, f16, bf16"
    );
    assert_eq!(step.decay_rate(-1.0).unwrap_err().to_string(), "decay_rate is -1, and must be in [0, inf)");
    let text = |found: Result<TensorRef<'_>, Error>| found.unwrap_err().to_string();
    let (codes, scales) = ([0_i8; 65], [0.0_f32; 1]);
    assert_eq!(
        text(TensorRef::from_streams(Dtype::Q8, &codes, &scales)),
        "the second stream has 1 elements; expected 2, to match the first stream"
    );
    assert_eq!(
        text(TensorRef::from_streams(Dtype::Q8, &scales, &scales)),
        "the first stream is f32; expected i8"
    );
    assert_eq!(
        text(TensorRef::from_streams(Dtype::F32, &scales, &scales)),
        "the f32 tensor is given 2 streams; expected 1"
    );
}

/// Integer streams round to the nearest integer.
#[test]
fn integers_are_rounded_to_the_nearest() {
    let values =
        [0.5, 1.5, -2.5, 127.4, 127.5, -128.6, 32767.5, -40000.0, f32::NAN, f32::INFINITY, 8_388_609.0];
    for backend in Backend::available() {
        let (mut bytes, mut words) = ([0_i8; 11], [0_i16; 11]);
        convert(backend, &values, TensorMut::from(&mut bytes)).expect("equal lengths");
        convert(backend, &values, TensorMut::from(&mut words)).expect("equal lengths");
        assert_eq!(bytes, values.map(<i8 as Float>::round));
        assert_eq!(words, values.map(<i16 as Float>::round));
        assert_eq!(words, [0, 2, -2, 127, 128, -129, 32767, -32768, 0, 32767, 32767]);
    }
}
