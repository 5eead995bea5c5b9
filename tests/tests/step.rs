//! The step: every backend compared bit for bit with the reference.

use half::{bf16, f16};
use lion_kernels::reference::Settings;
use lion_kernels::{Backend, Clip, Dtype, Ema, Error, GradientTransform, LionStep, Role, StepTensors, Task};
use lion_tests::alone::apply;
use lion_tests::{
    Case, Guarded, PLAIN, Rng, Sample, bits, for_each_triple, on_each_backend, settings, values,
};
use proptest::prelude::*;

on_each_backend!(
    every_length,
    every_misalignment,
    every_combination_of_parts,
    out_of_place_reads_one_and_writes_the_other,
    any_settings_and_lengths,
    tensors_beyond_the_caches,
    masked_decay_and_maximize,
    scaled_by_a_factor_alone,
    any_gradient_factors,
    ordinary_numbers_with_a_subnormal,
    a_task_takes_the_next_step,
    a_step_that_does_not_fit_leaves_the_task,
);

/// Runs one step on a backend.
fn by(backend: Backend) -> impl FnOnce(LionStep, StepTensors<'_>) -> Result<(), Error> {
    move |step, tensors| apply(step, backend, tensors)
}

const DECAYED: Settings = Settings { weight_decay: Some(0.1), ..PLAIN };

const FULL: Settings = Settings {
    loss_scale: Some(3.0),
    accumulation_steps: Some(3),
    global_clip_norm: Some((1.5, 2.0)),
    ema_momentum: Some(0.99),
    ..DECAYED
};

/// Four chunks of the longest vectors, and one element.
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

fn combinations() -> Vec<Settings> {
    let mut all = vec![PLAIN];
    let mut extend = |variants: &[&dyn Fn(Settings) -> Settings]| {
        all = all.iter().flat_map(|pass| variants.iter().map(|vary| vary(*pass))).collect();
    };
    extend(&[&|pass| pass, &|pass| Settings { learning_rate: 0.0, ..pass }, &|pass| Settings {
        learning_rate: -0.0,
        ..pass
    }]);
    extend(&[&|pass| pass, &|pass| Settings { weight_decay: Some(0.01), ..pass }, &|pass| Settings {
        weight_decay: Some(0.01),
        decay_rate: Some(0.3),
        ..pass
    }]);
    extend(&[&|pass| pass, &|pass| Settings { loss_scale: Some(1024.0), ..pass }]);
    extend(&[&|pass| pass, &|pass| Settings { accumulation_steps: Some(4), ..pass }]);
    extend(&[
        &|pass| pass,
        &|pass| Settings { clip_value: Some(0.25), ..pass },
        &|pass| Settings { clip_norm: Some((1.0, 0.5)), ..pass },
        &|pass| Settings { clip_norm: Some((1.0, 7.0)), ..pass },
        &|pass| Settings { clip_norm: Some((1.0, f32::NAN)), ..pass },
        &|pass| Settings { global_clip_norm: Some((0.3, 7.0)), ..pass },
        &|pass| Settings { global_clip_norm: Some((0.3, 0.0)), ..pass },
        &|pass| Settings { global_clip_norm: Some((0.3, f32::INFINITY)), ..pass },
        &|pass| Settings { global_clip_norm: Some((0.3, f32::NAN)), ..pass },
    ]);
    extend(&[
        &|pass| pass,
        &|pass| Settings { ema_momentum: Some(0.9), ..pass },
        &|pass| Settings { ema_momentum: Some(0.0), ..pass },
        &|pass| Settings { ema_momentum: Some(0.9), ema_overwrite: true, ..pass },
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

/// Tensors so large that a step prefetches.
fn tensors_beyond_the_caches(backend: Backend) {
    let mut rng = Rng::with_seed(0x55);
    for pass in [PLAIN, FULL] {
        Case::<f32, f32, f32>::new(&mut rng, pass, None, 360_007).check_step(true, by(backend));
        Case::<bf16, bf16, bf16>::new(&mut rng, pass, None, 700_019).check_step(true, by(backend));
    }
}

/// A backend may round ordinary numbers by an instruction that takes subnormal numbers as zeros.
fn ordinary_numbers_with_a_subnormal(backend: Backend) {
    fn triple<P: Sample, G: Sample, M: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x33);
        for place in 0..64 {
            let mut case = Case::<P, G, M>::new(&mut rng, DECAYED, Some(Dtype::BF16), 64);
            fn ordinary<T: Sample>(rng: &mut Rng) -> Vec<T> {
                (0..64).map(|_| T::round((rng.f32() - 0.5) * 100.0)).collect()
            }
            case.parameter = ordinary(&mut rng);
            case.gradient = ordinary(&mut rng);
            case.momentum = ordinary(&mut rng);
            case.check_step(true, by(backend));
            case.pass.learning_rate = 0.0;
            for subnormal in [3e-39, -1e-40] {
                case.parameter[place] = P::round(subnormal);
                case.gradient[place] = G::round(0.0);
                case.momentum[place] = M::round(subnormal);
                case.check_step(true, by(backend));
            }
        }
    }
    for_each_triple!(triple, backend);
}

fn any_settings_and_lengths(backend: Backend) {
    let optional = |range: std::ops::Range<f32>| prop::option::of(range);
    let strategy = (
        (0.0_f32..10.0, 1e-3_f32..=1.0, 0.0_f32..=1.0, 0_usize..3000, any::<u64>(), any::<bool>()),
        (optional(0.0..2.0), any::<bool>(), any::<bool>(), optional(1e-6..1e6), prop::option::of(2_u32..100)),
        (
            0..4,
            1e-3_f32..1e3,
            0.0_f32..1e6,
            prop::option::of(0.0_f32..=1.0),
            any::<bool>(),
            0..4_usize,
            optional(0.0..2.0),
        ),
    );
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) };
    proptest!(config, |((rates, gradient, rest) in strategy)| {
        let (learning_rate, beta_1, beta_2, len, seed, in_place) = rates;
        let (weight_decay, masked_decay, maximize, unscale, accumulation_steps) = gradient;
        let (clip, limit, norm, ema_momentum, ema_overwrite, copy, decay_rate) = rest;
        let pass = Settings {
            learning_rate,
            beta_1,
            beta_2,
            weight_decay,
            decay_rate,
            masked_decay,
            maximize,
            loss_scale: unscale,
            accumulation_steps,
            clip_value: (clip == 1).then_some(limit),
            clip_norm: (clip == 2).then_some((limit, norm)),
            global_clip_norm: (clip == 3).then_some((f64::from(limit) / 3.0, norm)),
            ema_momentum,
            ema_overwrite,
        };
        let copy = Dtype::for_role(Role::Gradient).nth(copy);
        let mut rng = Rng::with_seed(seed);
        Case::<f32, f32, f32>::new(&mut rng, pass, copy, len).check_step(in_place, by(backend));
        Case::<bf16, bf16, bf16>::new(&mut rng, pass, copy, len).check_step(in_place, by(backend));
        Case::<f16, f16, f16>::new(&mut rng, pass, copy, len).check_step(in_place, by(backend));
        Case::<f32, bf16, f16>::new(&mut rng, pass, copy, len).check_step(in_place, by(backend));
    });
}

/// Each kind of decay, minimizing and maximizing.
fn rules() -> [Settings; 6] {
    let masked = Settings { masked_decay: true, ..DECAYED };
    let up = |pass| Settings { maximize: true, ..pass };
    [PLAIN, DECAYED, masked, up(PLAIN), up(DECAYED), up(masked)]
}

/// Values of every class, so both factors of the mask take zeros of both signs, infinities and NaN.
fn masked_decay_and_maximize(backend: Backend) {
    fn triple<P: Sample, G: Sample, M: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x66);
        for len in LENGTHS {
            for rule in &rules()[2..] {
                let full = Settings { masked_decay: rule.masked_decay, maximize: rule.maximize, ..FULL };
                Case::<P, G, M>::new(&mut rng, *rule, None, len).check_step(true, by(backend));
                Case::<P, G, M>::new(&mut rng, *rule, None, len).check_step(false, by(backend));
                Case::<P, G, M>::new(&mut rng, full, Some(Dtype::BF16), len).check_step(true, by(backend));
            }
        }
    }
    for_each_triple!(triple, backend);
}

/// A clip by a factor, or a loss scale with an exact reciprocal, has its own kernels if it is the only transform.
fn scaled_by_a_factor_alone(backend: Backend) {
    fn triple<P: Sample, G: Sample, M: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x77);
        for rule in rules() {
            let scaled = Settings { loss_scale: Some(1024.0), ..rule };
            let clipped = Settings { global_clip_norm: Some((0.3, 7.0)), ..rule };
            for len in LENGTHS {
                for pass in [scaled, clipped] {
                    Case::<P, G, M>::new(&mut rng, pass, None, len).check_step(len % 2 == 0, by(backend));
                }
            }
            // The ends of the range, scales without an exact reciprocal, and a norm that makes every element NaN.
            let ends = [f32::from_bits(1), f32::MIN_POSITIVE, 0.5 * 2.0_f32.powi(-126), 2.0_f32.powi(126)];
            for divisor in ends.into_iter().chain([2.0_f32.powi(127), 3.0, 0.0, f32::INFINITY]) {
                let pass = Settings { loss_scale: Some(divisor), ..rule };
                Case::<P, G, M>::new(&mut rng, pass, None, 131).check_step(true, by(backend));
            }
            for norm in [0.0, 0.1, f32::INFINITY, f32::NAN] {
                let pass = Settings { global_clip_norm: Some((0.3, norm)), ..rule };
                Case::<P, G, M>::new(&mut rng, pass, None, 131).check_step(true, by(backend));
            }
        }
    }
    for_each_triple!(triple, backend);
}

/// The reference only has Keras's factors, so this test computes the step itself.
fn any_gradient_factors(backend: Backend) {
    const BETAS: [f32; 2] = [0.9, 0.99];
    fn triple<P: Sample, G: Sample, M: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x88);
        // The factors of a program that subtracts in f64, Keras's factors, and the ends of the range.
        let in_f64 = [(1.0 - 0.9_f64) as f32, (1.0 - 0.99_f64) as f32];
        assert_ne!(in_f64, BETAS.map(|beta| 1.0 - beta), "another last bit");
        for factors in [in_f64, BETAS.map(|beta| 1.0 - beta), [0.0, 1.0], [1.0, 0.0], [-0.0, -0.0]] {
            for (len, maximize) in [(1, false), (67, true), (129, false), (700, true)] {
                let (p, g, m) =
                    (values::<P>(&mut rng, len), values::<G>(&mut rng, len), values::<M>(&mut rng, len));
                let (mut moved, mut kept) = (p.clone(), m.clone());
                for i in 0..len {
                    let g = if maximize { -g[i].widen() } else { g[i].widen() };
                    let m = m[i].widen();
                    let c = m * BETAS[0] + g * factors[0].abs();
                    let sign = match c {
                        c if c.is_nan() => f32::NAN,
                        c => f32::from(i8::from(c > 0.0) - i8::from(c < 0.0)),
                    };
                    moved[i] = P::round(p[i].widen() - 0.125 * sign);
                    kept[i] = M::round(m * BETAS[1] + g * factors[1].abs());
                }
                let plain = LionStep::new(0.125, BETAS[0], BETAS[1]).expect("valid");
                let [one, two] = factors;
                // Before and after `maximize` is set.
                let steps = [
                    plain.gradient_factors(one, two).map(|step| step.maximize(maximize)),
                    plain.maximize(maximize).gradient_factors(one, two),
                ];
                for step in steps {
                    let gradient = Guarded::new(&g, rng.usize(..32));
                    let mut parameter = Guarded::new(&p, rng.usize(..32));
                    let mut momentum = Guarded::new(&m, rng.usize(..32));
                    let tensors = StepTensors::in_place(
                        parameter.tensor_mut(),
                        gradient.tensor(),
                        momentum.tensor_mut(),
                    );
                    apply(step.expect("valid"), backend, tensors).expect("a step");
                    let what = format!("factors {factors:?}, maximize {maximize}");
                    parameter.assert_holds(&moved, &format!("parameter, {what}"));
                    momentum.assert_holds(&kept, &format!("momentum, {what}"));
                }
            }
        }
    }
    for_each_triple!(triple, backend);
}

/// A task persists between steps, and accepts new hyperparameters, transforms, and kinds of decay.
fn a_task_takes_the_next_step(backend: Backend) {
    fn triple<P: Sample, G: Sample, M: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x99);
        let other = Settings { learning_rate: 0.5, beta_1: 0.3, beta_2: 0.7, ..PLAIN };
        let passes = [
            PLAIN,
            Settings { weight_decay: Some(0.25), maximize: true, ..other },
            Settings { loss_scale: Some(1024.0), ..other },
            Settings { weight_decay: Some(0.25), masked_decay: true, clip_value: Some(0.5), ..other },
            PLAIN,
        ];
        for len in [0, 1, 53, 129, 600] {
            let start = values::<P>(&mut rng, len);
            let gradient = Guarded::new(&values::<G>(&mut rng, len), rng.usize(..32));
            let mut parameter = Guarded::new(&start, rng.usize(..32));
            let start_of_momentum = values::<M>(&mut rng, len);
            let mut momentum = Guarded::new(&start_of_momentum, rng.usize(..32));
            let (mut p, mut m) = (start, start_of_momentum);
            let first = settings(&passes[0]).expect("valid");
            let tensors =
                StepTensors::in_place(parameter.tensor_mut(), gradient.tensor(), momentum.tensor_mut());
            let mut task = Task::step(first, tensors).expect("fits");
            for pass in passes {
                task.set_step(settings(&pass).expect("valid")).expect("needs the same tensors");
                task.run(backend).expect("a step");
                // Again, with the same settings.
                task.run(backend).expect("a step");
                for _ in 0..2 {
                    pass.step(&mut p, gradient.tensor(), &mut m, None, None, None::<&mut [f32]>);
                }
            }
            parameter.assert_holds(&p, "parameter after ten steps");
            momentum.assert_holds(&m, "momentum after ten steps");
        }
    }
    for_each_triple!(triple, backend);
}

fn a_step_that_does_not_fit_leaves_the_task(backend: Backend) {
    let plain = LionStep::new(0.25, 0.9, 0.99).expect("valid");
    let averaging = plain.gradient(GradientTransform::new().average_over(2).expect("valid"));
    let observing = plain.ema(Ema::new(0.5).expect("valid"));
    let missing = |tensor| Err(Error::MissingTensor { tensor });
    let unused = |tensor| Err(Error::UnusedTensor { tensor });

    let (mut p, g, mut m) = ([1.0_f32; 40], [1.0_f32; 40], [0.0_f32; 40]);
    let mut task = Task::step(plain, StepTensors::in_place(&mut p, &g, &mut m)).expect("fits");
    assert_eq!(task.set_step(averaging), missing("accumulator"));
    assert_eq!(task.set_step(observing), missing("EMA"));
    task.run(backend).expect("the step that it had");
    assert_eq!(p, [0.75; 40]);

    let (mut sums, mut ema) = ([3.0_f32; 40], [0.0_f32; 40]);
    let both = averaging.ema(Ema::new(0.5).expect("valid"));
    let tensors = StepTensors::in_place(&mut p, &g, &mut m).accumulator(&mut sums).ema(&mut ema);
    let mut task = Task::step(both, tensors).expect("fits");
    assert_eq!(task.set_step(plain), unused("accumulator"));
    assert_eq!(task.set_step(observing), unused("accumulator"));
    assert_eq!(task.set_step(averaging), unused("EMA"));
    let clipped = both.clip(Clip::Value(1.0)).expect("valid");
    task.set_step(clipped).expect("needs the same tensors");
    task.run(backend).expect("a step");
    assert_eq!((p, sums, ema), ([0.5; 40], [0.0; 40], [0.25; 40]));

    // A pass that is not a step cannot become one.
    let mut copy = [0.0_f32; 40];
    let mut task = Task::convert(&p, &mut copy).expect("fits");
    assert_eq!(task.set_step(plain), missing("parameter"));
    task.run(backend).expect("a conversion");
    assert_eq!(bits(&copy), bits(&p));
}
