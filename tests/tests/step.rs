//! The step of every backend against the reference, by bits.

use half::{bf16, f16};
use lion_kernels::reference::Pass;
use lion_kernels::{Backend, Clip, Dtype, Ema, Gradient, Step, Tensors};
use lion_tests::{Guarded, Rng, Sample, for_each_triple, on_each_backend, values};
use proptest::prelude::*;

on_each_backend!(
    every_length,
    every_misalignment,
    every_combination_of_parts,
    out_of_place_reads_one_and_writes_the_other,
    any_settings_and_lengths,
    tensors_beyond_the_caches,
);

/// A step as the kernels and as the reference know it, on tensors of their own.
struct Case<P, G, M> {
    pass: Pass,
    copy: Option<Dtype>,
    parameter: Vec<P>,
    gradient: Vec<G>,
    momentum: Vec<M>,
    accumulator: Vec<f32>,
    average: Vec<f32>,
    /// Elements from a 64-byte boundary to the start of parameter, gradient and momentum.
    misalignment: [usize; 3],
}

impl<P: Sample, G: Sample, M: Sample> Case<P, G, M> {
    fn new(rng: &mut Rng, pass: Pass, copy: Option<Dtype>, len: usize) -> Self {
        Case {
            pass,
            copy,
            parameter: values(rng, len),
            gradient: values(rng, len),
            momentum: values(rng, len),
            accumulator: values(rng, len),
            average: values(rng, len),
            misalignment: [rng.usize(..64), rng.usize(..64), rng.usize(..64)],
        }
    }

    fn what(&self) -> String {
        format!(
            "{}/{}/{} {:?} copy {:?}, misaligned by {:?}",
            P::DTYPE,
            G::DTYPE,
            M::DTYPE,
            self.pass,
            self.copy,
            self.misalignment
        )
    }

    fn check(&self, backend: Backend, in_place: bool) {
        match self.copy {
            None | Some(Dtype::F32) => self.check_with_copy::<f32>(backend, in_place),
            Some(Dtype::F16) => self.check_with_copy::<f16>(backend, in_place),
            Some(Dtype::BF16) => self.check_with_copy::<bf16>(backend, in_place),
        }
    }

    fn check_with_copy<C: Sample>(&self, backend: Backend, in_place: bool) {
        let zeros = vec![C::default(); self.parameter.len()];
        let (mut p, mut m) = (self.parameter.clone(), self.momentum.clone());
        let (mut sums, mut averages, mut copies) =
            (self.accumulator.clone(), self.average.clone(), zeros.clone());
        self.pass.step(
            &mut p,
            &self.gradient,
            &mut m,
            self.pass.accumulation_steps.map(|_| &mut sums[..]),
            self.pass.ema_momentum.map(|_| &mut averages[..]),
            self.copy.map(|_| &mut copies[..]),
        );

        let [at_p, at_g, at_m] = self.misalignment;
        let source = Guarded::new(&self.parameter, at_p);
        let mut parameter = Guarded::new(
            &if in_place { self.parameter.clone() } else { values(&mut Rng::with_seed(1), p.len()) },
            at_p + 3,
        );
        let gradient = Guarded::new(&self.gradient, at_g);
        let mut momentum = Guarded::new(&self.momentum, at_m);
        let mut accumulator = Guarded::new(&self.accumulator, at_p);
        let mut average = Guarded::new(&self.average, at_g);
        let mut copy = Guarded::new(&zeros, at_m);
        let mut tensors = if in_place {
            Tensors::in_place(
                P::slice_mut(parameter.tensor_mut()),
                G::slice(gradient.tensor()),
                M::slice_mut(momentum.tensor_mut()),
            )
        } else {
            Tensors::out_of_place(
                P::slice(source.tensor()),
                P::slice_mut(parameter.tensor_mut()),
                G::slice(gradient.tensor()),
                M::slice_mut(momentum.tensor_mut()),
            )
        };
        if self.pass.accumulation_steps.is_some() {
            tensors = tensors.accumulator(accumulator.tensor_mut());
        }
        if self.pass.ema_momentum.is_some() {
            tensors = tensors.ema(average.tensor_mut());
        }
        if self.copy.is_some() {
            tensors = tensors.copy(C::slice_mut(copy.tensor_mut()));
        }
        settings(&self.pass).apply(backend, tensors).expect("a step of equal lengths");

        let what = self.what();
        parameter.assert_holds(&p, &format!("{what}: parameter"));
        momentum.assert_holds(&m, &format!("{what}: momentum"));
        accumulator.assert_holds(&sums, &format!("{what}: accumulator"));
        average.assert_holds(&averages, &format!("{what}: EMA"));
        copy.assert_holds(&copies, &format!("{what}: copy"));
        source.assert_holds(&self.parameter, &format!("{what}: source"));
        gradient.assert_holds(&self.gradient, &format!("{what}: gradient"));
    }
}

/// The kernels' settings for a pass of the reference.
fn settings(pass: &Pass) -> Step {
    let mut step = Step::new(pass.learning_rate, pass.beta_1, pass.beta_2).expect("valid");
    if let Some(weight_decay) = pass.weight_decay {
        step = step.weight_decay(weight_decay).expect("valid");
    }
    if let Some(momentum) = pass.ema_momentum {
        step = step.ema(Ema::new(momentum).expect("valid").overwrite(pass.ema_overwrite));
    }
    let mut gradient = Gradient::new();
    if let Some(divisor) = pass.unscale {
        gradient = gradient.unscale(divisor).expect("valid");
    }
    if let Some(steps) = pass.accumulation_steps {
        gradient = gradient.accumulated(steps).expect("valid");
    }
    if let Some(limit) = pass.clip_value {
        gradient = gradient.clip(Clip::Value(limit)).expect("valid");
    }
    if let Some((limit, norm)) = pass.clip_norm {
        gradient = gradient.clip(Clip::Norm { limit, norm }).expect("valid");
    }
    if let Some((limit, norm)) = pass.global_clip_norm {
        gradient = gradient.clip(Clip::global_norm(limit, norm)).expect("valid");
    }
    step.gradient(gradient)
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
                Case::<P, G, M>::new(&mut rng, pass, copy, len).check(backend, true);
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
                        case.check(backend, true);
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
                Case::<P, G, M>::new(&mut rng, pass, copy, 53).check(backend, true);
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
    extend(&[&|pass| pass, &|pass| Pass { learning_rate: 0.0, ..pass }]);
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
                Case::<P, G, M>::new(&mut rng, pass, None, len).check(backend, false);
            }
        }
    }
    for_each_triple!(triple, backend);
}

/// Where a step prefetches.
fn tensors_beyond_the_caches(backend: Backend) {
    let mut rng = Rng::with_seed(0x55);
    for pass in [PLAIN, FULL] {
        Case::<f32, f32, f32>::new(&mut rng, pass, None, 360_007).check(backend, true);
        Case::<bf16, bf16, bf16>::new(&mut rng, pass, None, 700_019).check(backend, true);
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
        Case::<f32, f32, f32>::new(&mut rng, pass, copy, len).check(backend, in_place);
        Case::<bf16, bf16, bf16>::new(&mut rng, pass, copy, len).check(backend, in_place);
        Case::<f16, f16, f16>::new(&mut rng, pass, copy, len).check(backend, in_place);
        Case::<f32, bf16, f16>::new(&mut rng, pass, copy, len).check(backend, in_place);
    });
}
