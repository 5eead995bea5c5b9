//! The step of every backend against the reference, by bits.

use half::{bf16, f16};
use lion_kernels::reference::Pass;
use lion_kernels::{Backend, Dtype, Error, Step, Tensors};
use lion_tests::{Case, Rng, Sample, for_each_triple, on_each_backend};
use proptest::prelude::*;

on_each_backend!(
    every_length,
    every_misalignment,
    every_combination_of_parts,
    out_of_place_reads_one_and_writes_the_other,
    any_settings_and_lengths,
    tensors_beyond_the_caches,
);

/// A step made with one call on a backend.
fn by(backend: Backend) -> impl FnOnce(Step, Tensors<'_>) -> Result<(), Error> {
    move |step, tensors| step.apply(backend, tensors)
}

const PLAIN: Pass = Pass {
    learning_rate: 1e-3,
    beta_1: 0.9,
    beta_2: 0.99,
    weight_decay: None,
    unscale: None,
    accumulation_steps: None,
    clip_value: None,
    clip_norm: None,
    global_clip_norm: None,
    ema_momentum: None,
    ema_overwrite: false,
};

const DECAYED: Pass = Pass { weight_decay: Some(0.1), ..PLAIN };

const FULL: Pass = Pass {
    unscale: Some(3.0),
    accumulation_steps: Some(3),
    global_clip_norm: Some((1.5, 2.0)),
    ema_momentum: Some(0.99),
    ..DECAYED
};

/// Four blocks of the longest vectors, and one element.
const LENGTHS: std::ops::RangeInclusive<usize> = 0..=4 * 32 + 1;

fn every_length(backend: Backend) {
    fn triple<P: Sample, G: Sample, M: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x11);
        for len in LENGTHS {
            for (pass, copy) in [(PLAIN, None), (DECAYED, None), (FULL, Some(Dtype::BF16))] {
                Case::<P, G, M>::new(&mut rng, pass, copy, len).check_step(true, by(backend));
            }
        }
    }
    for_each_triple!(triple, backend);
}

fn every_misalignment(backend: Backend) {
    fn triple<P: Sample, G: Sample, M: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x22);
        for pass in [PLAIN, FULL] {
            for tensor in 0..3 {
                for misalignment in 0..32 {
                    for len in [1, 17, 32, 67] {
                        let mut case = Case::<P, G, M>::new(&mut rng, pass, None, len);
                        case.misalignment = [0; 3];
                        case.misalignment[tensor] = misalignment;
                        case.check_step(true, by(backend));
                    }
                }
            }
        }
    }
    for_each_triple!(triple, backend);
}

fn every_combination_of_parts(backend: Backend) {
    fn triple<P: Sample, G: Sample, M: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x33);
        for pass in combinations() {
            for copy in [None, Some(Dtype::F32), Some(Dtype::F16), Some(Dtype::BF16)] {
                Case::<P, G, M>::new(&mut rng, pass, copy, 53).check_step(true, by(backend));
            }
        }
    }
    for_each_triple!(triple, backend);
}

fn combinations() -> Vec<Pass> {
    let mut all = vec![PLAIN];
    let mut extend = |variants: &[&dyn Fn(Pass) -> Pass]| {
        all = all.iter().flat_map(|pass| variants.iter().map(|vary| vary(*pass))).collect();
    };
    extend(&[&|pass| pass, &|pass| Pass { learning_rate: 0.0, ..pass }, &|pass| Pass {
        learning_rate: -0.0,
        ..pass
    }]);
    extend(&[&|pass| pass, &|pass| Pass { weight_decay: Some(0.01), ..pass }]);
    extend(&[&|pass| pass, &|pass| Pass { unscale: Some(1024.0), ..pass }]);
    extend(&[&|pass| pass, &|pass| Pass { accumulation_steps: Some(4), ..pass }]);
    extend(&[
        &|pass| pass,
        &|pass| Pass { clip_value: Some(0.25), ..pass },
        &|pass| Pass { clip_norm: Some((1.0, 0.5)), ..pass },
        &|pass| Pass { clip_norm: Some((1.0, 7.0)), ..pass },
        &|pass| Pass { clip_norm: Some((1.0, f32::NAN)), ..pass },
        &|pass| Pass { global_clip_norm: Some((0.3, 7.0)), ..pass },
        &|pass| Pass { global_clip_norm: Some((0.3, 0.0)), ..pass },
        &|pass| Pass { global_clip_norm: Some((0.3, f32::INFINITY)), ..pass },
        &|pass| Pass { global_clip_norm: Some((0.3, f32::NAN)), ..pass },
    ]);
    extend(&[
        &|pass| pass,
        &|pass| Pass { ema_momentum: Some(0.9), ..pass },
        &|pass| Pass { ema_momentum: Some(0.0), ..pass },
        &|pass| Pass { ema_momentum: Some(0.9), ema_overwrite: true, ..pass },
    ]);
    all
}

fn out_of_place_reads_one_and_writes_the_other(backend: Backend) {
    fn triple<P: Sample, G: Sample, M: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x44);
        for len in LENGTHS {
            for pass in [PLAIN, DECAYED, FULL] {
                Case::<P, G, M>::new(&mut rng, pass, None, len).check_step(false, by(backend));
            }
        }
    }
    for_each_triple!(triple, backend);
}

/// Where a step prefetches.
fn tensors_beyond_the_caches(backend: Backend) {
    let mut rng = Rng::with_seed(0x55);
    for pass in [PLAIN, FULL] {
        Case::<f32, f32, f32>::new(&mut rng, pass, None, 360_007).check_step(true, by(backend));
        Case::<bf16, bf16, bf16>::new(&mut rng, pass, None, 700_019).check_step(true, by(backend));
    }
}

fn any_settings_and_lengths(backend: Backend) {
    let optional = |range: std::ops::Range<f32>| prop::option::of(range);
    let strategy = (
        (0.0_f32..10.0, 1e-3_f32..=1.0, 0.0_f32..=1.0, 0_usize..3000, any::<u64>(), any::<bool>()),
        (optional(0.0..2.0), optional(1e-6..1e6), prop::option::of(2_u32..100)),
        (0..4, 1e-3_f32..1e3, 0.0_f32..1e6, prop::option::of(0.0_f32..=1.0), any::<bool>(), 0..4_usize),
    );
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) };
    proptest!(config, |((rates, gradient, rest) in strategy)| {
        let (learning_rate, beta_1, beta_2, len, seed, in_place) = rates;
        let (weight_decay, unscale, accumulation_steps) = gradient;
        let (clip, limit, norm, ema_momentum, ema_overwrite, copy) = rest;
        let pass = Pass {
            learning_rate,
            beta_1,
            beta_2,
            weight_decay,
            unscale,
            accumulation_steps,
            clip_value: (clip == 1).then_some(limit),
            clip_norm: (clip == 2).then_some((limit, norm)),
            global_clip_norm: (clip == 3).then_some((f64::from(limit) / 3.0, norm)),
            ema_momentum,
            ema_overwrite,
        };
        let copy = Dtype::ALL.get(copy).copied();
        let mut rng = Rng::with_seed(seed);
        Case::<f32, f32, f32>::new(&mut rng, pass, copy, len).check_step(in_place, by(backend));
        Case::<bf16, bf16, bf16>::new(&mut rng, pass, copy, len).check_step(in_place, by(backend));
        Case::<f16, f16, f16>::new(&mut rng, pass, copy, len).check_step(in_place, by(backend));
        Case::<f32, bf16, f16>::new(&mut rng, pass, copy, len).check_step(in_place, by(backend));
    });
}
