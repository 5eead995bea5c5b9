//! A host's floating-point state does not change any bit. The test sets flush-to-zero, denormals-are-zero and the other
//! rounding modes on the calling thread, on the pool's threads, or on both. Each pass and a small training give the
//! bits of a run under the default state, and every thread keeps the host's state.
//!
//! The test covers only MXCSR, the control register of x86-64.
#![cfg(target_arch = "x86_64")]

use std::arch::asm;
use std::hint::black_box;

use half::{bf16, f16};
use lion::prelude::*;
use lion_kernels::reference::Settings;
use lion_kernels::{
    Backend, Clip, Ema, GradientStatistics, GradientTransform, LionStep, Plan, Role, STATISTICS_BLOCK,
    StepTensors, Task, TensorBuf, TensorMut, TensorRef, run,
};
use lion_tests::{Rng, Sample, bits, fill, for_each_triple, on_each_backend, settings, tensor_bits};
use rayon::{ThreadPool, ThreadPoolBuilder};

on_each_backend!(steps, other_passes, a_training, alone_on_the_calling_thread);

/// The bits that affect results: flush-to-zero, rounding mode, exception masks, denormals-are-zero.
const CONTROL: u32 = 0xffc0;
/// Round to nearest even, keep subnormals, mask all exceptions.
const DEFAULT: u32 = 0x1f80;
const FLUSH_TO_ZERO: u32 = 0x8000;
const DENORMALS_ARE_ZERO: u32 = 0x0040;

const STATES: [(&str, u32); 6] = [
    ("flush-to-zero", DEFAULT | FLUSH_TO_ZERO),
    ("denormals-are-zero", DEFAULT | DENORMALS_ARE_ZERO),
    ("both", DEFAULT | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO),
    ("rounding down", DEFAULT | 0x2000),
    ("rounding up", DEFAULT | 0x4000),
    ("rounding to zero", DEFAULT | 0x6000),
];

#[allow(unsafe_code)]
fn state() -> u32 {
    let mut value = 0_u32;
    // SAFETY: stores MXCSR to a variable of four bytes; SSE is part of the architecture.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
    value & CONTROL
}

#[allow(unsafe_code)]
fn set_state(value: u32) {
    // SAFETY: loads MXCSR from a place of four bytes, with bits that every x86-64 processor has. What this crate
    // computes in that state is only looked at by its bits; each thread of the test harness gets the default state
    // back.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags)) };
}

/// Restores the thread's state on drop, also if a test panics.
struct Restored(u32);

impl Drop for Restored {
    fn drop(&mut self) {
        set_state(self.0);
    }
}

/// Runs a function in this state, and checks that the function does not change the state.
#[track_caller]
fn under<T>(value: u32, what: &str, call: impl FnOnce() -> T) -> T {
    let _restored = Restored(state());
    set_state(value);
    let result = call();
    assert_eq!(state(), value, "{what}: the caller's state has changed");
    result
}

/// Products and quotients whose results differ in each of the states.
#[inline(never)]
fn probe() -> [u32; 4] {
    let [subnormal, normal, one, three] =
        black_box([f32::from_bits(0x0040_0000), f32::MIN_POSITIVE, 1.0, 3.0]);
    [subnormal * three, normal / three, one / three, -one / three].map(f32::to_bits)
}

#[test]
fn the_states_change_plain_arithmetic() {
    let expected = probe();
    for (name, value) in STATES {
        assert_ne!(under(value, name, probe), expected, "{name}");
        assert_eq!(under(value, name, || lion_kernels::with_ieee_state(probe)), expected, "{name}");
        assert_eq!(state(), DEFAULT);
    }
}

/// The threads whose state is not the default.
#[derive(Clone, Copy, Debug)]
enum Place {
    Caller,
    Pool,
    Both,
}

const THREADS: usize = 3;

/// The thread pools of the tests: one in the default state, and one in each other state.
struct Hosts {
    default: ThreadPool,
    others: Vec<(&'static str, u32, ThreadPool)>,
}

fn pool(value: u32) -> ThreadPool {
    let builder = ThreadPoolBuilder::new().num_threads(THREADS).start_handler(move |_| set_state(value));
    builder.build().expect("threads")
}

impl Hosts {
    fn new() -> Self {
        let others = STATES.map(|(name, value)| (name, value, pool(value)));
        Hosts { default: pool(DEFAULT), others: others.into() }
    }

    /// The results under the default state. Every other host must give the same.
    #[track_caller]
    fn check<T: PartialEq + Send>(&self, what: &str, call: impl Fn() -> T + Sync) {
        let expected = self.default.install(|| under(DEFAULT, what, &call));
        for (name, value, pool) in &self.others {
            for (place, pool, of_caller, of_pool) in [
                (Place::Caller, &self.default, *value, DEFAULT),
                (Place::Pool, pool, DEFAULT, *value),
                (Place::Both, pool, *value, *value),
            ] {
                let what = format!("{what}, {name} of {place:?}");
                let found = pool.install(|| under(of_caller, &what, &call));
                assert!(found == expected, "{what}: other bits");
                let states = pool.broadcast(|_| state());
                assert_eq!(states, [of_pool; THREADS], "{what}: a worker's state has changed");
            }
        }
    }
}

/// A plan by which every run uses all threads.
fn plan(backend: Backend) -> Plan {
    Plan::new(backend).threads(THREADS).chunk_elements(STATISTICS_BLOCK).parallel_threshold(0)
}

/// Several chunks per thread, and a tail.
const LEN: usize = 7 * STATISTICS_BLOCK + 77;

/// Returns subnormals of the format and of f32, ordinary numbers, and a few values of every class.
fn numbers<T: Sample>(rng: &mut Rng, len: usize) -> Vec<T> {
    let number = |rng: &mut Rng| match rng.u32(0..8) {
        // In each format, the low bits alone form a subnormal number.
        0 => T::from_low_bits(rng.u32(1..0x40)),
        1 => T::round(f32::from_bits(rng.u32(1..1 << 23))),
        2 => T::round(-f32::from_bits(rng.u32(1..1 << 23))),
        3 => T::round(rng.f32() * 2.0_f32.powi(-14)),
        4 => T::round(-rng.f32() * 2.0_f32.powi(-120)),
        _ => T::round(rng.f32() * 2.0 - 1.0),
    };
    (0..len).map(|_| number(rng)).collect()
}

fn steps(backend: Backend) {
    fn triple<P: Sample, G: Sample, M: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0xf1);
        let hosts = Hosts::new();
        let plain = Settings { learning_rate: 1e-3, beta_1: 0.9, beta_2: 0.99, ..Settings::default() };
        let decayed = Settings { weight_decay: Some(0.1), ..plain };
        let passes = [
            decayed,
            Settings { masked_decay: true, maximize: true, loss_scale: Some(1024.0), ..decayed },
            Settings { global_clip_norm: Some((0.3, 7.0)), learning_rate: 1e-41, ..plain },
            Settings {
                loss_scale: Some(3.0),
                clip_norm: Some((1.0, 3.0)),
                ema_momentum: Some(0.99),
                ..decayed
            },
        ];
        let (p, g, m) =
            (numbers::<P>(&mut rng, LEN), numbers::<G>(&mut rng, LEN), numbers::<M>(&mut rng, LEN));
        let ema = numbers::<f32>(&mut rng, LEN);
        for pass in passes {
            hosts.check(&format!("{pass:?} on {backend}"), || {
                let (mut p, mut m, mut ema, mut copy) =
                    (p.clone(), m.clone(), ema.clone(), vec![bf16::ZERO; LEN]);
                let mut tensors = StepTensors::in_place(&mut p, &g, &mut m);
                if pass.ema_momentum.is_some() {
                    tensors = tensors.ema(&mut ema).copy(&mut copy);
                }
                // The settings are also created in that state.
                let step = settings(&pass).expect("valid");
                run(&plan(backend), &mut [Task::step(step, tensors).expect("fits")]).expect("it runs");
                (bits(&p), bits(&m), bits(&ema), bits(&copy))
            });
        }
    }
    for_each_triple!(triple, backend);
}

fn other_passes(backend: Backend) {
    fn format<T: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0xf2);
        let hosts = Hosts::new();
        let given = numbers::<T>(&mut rng, LEN);
        let sums = numbers::<f32>(&mut rng, LEN);
        let what = |pass: &str| format!("{pass} of {} on {backend}", T::DTYPE);
        let transform = GradientTransform::new().loss_scale(3.0).and_then(|it| it.average_over(3));
        let (transform, unscaled) = (transform.expect("valid"), GradientTransform::new());
        let of = |it: GradientStatistics| (it.sum_of_squares.to_bits(), it.non_finite, it.max_abs.to_bits());
        hosts.check(&what("statistics"), || {
            let mut blocks = vec![GradientStatistics::default(); LEN.div_ceil(STATISTICS_BLOCK)];
            let task = Task::statistics(&transform, &given, Some(&sums), &mut blocks);
            run(&plan(backend), &mut [task.expect("fits")]).expect("it runs");
            let all = GradientStatistics::from_blocks(&blocks);
            (blocks.iter().map(|it| of(*it)).collect::<Vec<_>>(), of(all), all.norm().to_bits())
        });
        hosts.check(&what("statistics in one call"), || {
            let one = GradientStatistics::measure(backend, &unscaled, &given, None).expect("fits");
            let other = GradientStatistics::measure(backend, &transform, &given, Some(&sums)).expect("fits");
            (of(one), of(other), of(one.merge(&other)), one.norm().to_bits())
        });
        hosts.check(&what("accumulation"), || {
            let mut sums = sums.clone();
            let scale = GradientTransform::new().loss_scale(3.0).expect("valid");
            let task = Task::accumulate(&scale, &mut sums, &given);
            run(&plan(backend), &mut [task.expect("fits")]).expect("it runs");
            bits(&sums)
        });
        hosts.check(&what("moving average"), || {
            let (mut average, mut parameter) = (sums.clone(), given.clone());
            let ema = Ema::new(0.99).expect("valid").overwrite(true);
            let task = Task::update_ema(&ema, &mut average, &mut parameter);
            run(&plan(backend), &mut [task.expect("fits")]).expect("it runs");
            (bits(&average), bits(&parameter))
        });
        hosts.check(&what("conversions"), || {
            let (mut f32s, mut f16s, mut bf16s) =
                (vec![0.0_f32; LEN], vec![f16::ZERO; LEN], vec![bf16::ZERO; LEN]);
            let mut back = vec![T::default(); LEN];
            let tasks = [
                Task::convert(&given, &mut f32s),
                Task::convert(&given, &mut f16s),
                Task::convert(&given, &mut bf16s),
                Task::convert(&sums, &mut back),
            ];
            run(&plan(backend), &mut tasks.map(|task| task.expect("fits"))).expect("it runs");
            (bits(&f32s), bits(&f16s), bits(&bf16s), bits(&back))
        });
        hosts.check(&what("reading and writing by value"), || {
            let mut stored = vec![T::default(); LEN];
            TensorMut::from(&mut stored).write_f32(0, &sums).expect("as long");
            let mut rounded = sums.clone();
            T::DTYPE.round(&mut rounded);
            (bits(&stored), bits(&rounded), bits(&TensorRef::from(&given).to_f32()))
        });
    }
    format::<f32>(backend);
    format::<f16>(backend);
    format::<bf16>(backend);
}

/// Outside a pool, on a plain thread, and by `Task::run`.
fn alone_on_the_calling_thread(backend: Backend) {
    let mut rng = Rng::with_seed(0xf3);
    let (p, g) = (numbers::<f32>(&mut rng, 300), numbers::<bf16>(&mut rng, 300));
    let once = || {
        let (mut p, mut m) = (p.clone(), p.clone());
        let step = LionStep::new(1e-41, 0.9, 0.99).and_then(|it| it.weight_decay(0.1)).expect("valid");
        let step = step.clip(Clip::global_norm(0.3, 7.0)).expect("valid");
        let mut task = Task::step(step, StepTensors::in_place(&mut p, &g, &mut m)).expect("fits");
        task.run(backend).expect("a step");
        task.run(backend).expect("a step");
        (bits(&p), bits(&m))
    };
    let expected = once();
    for (name, value) in STATES {
        assert!(under(value, name, once) == expected, "{name} on {backend}");
        let on_a_thread = || std::thread::scope(|scope| scope.spawn(|| under(value, name, once)).join());
        assert!(on_a_thread().expect("no panic") == expected, "{name} on a thread, {backend}");
    }
}

/// Range checks treat subnormal numbers correctly, even if the processor treats them as zeros.
#[test]
fn settings_are_checked_as_they_are_given() {
    let tiny = f32::from_bits(1);
    let checks = || {
        let plain = LionStep::new(tiny, 0.9, 0.99).expect("not negative");
        let gradient = GradientTransform::new();
        let accepted = [
            plain.weight_decay(tiny).is_ok(),
            plain.clip(Clip::Value(tiny)).is_ok(),
            plain.clip(Clip::Norm { limit: tiny, norm: tiny }).is_ok(),
            gradient.loss_scale(tiny).is_ok(),
            Ema::new(tiny).is_ok(),
            LionStep::new(0.0, tiny, tiny).is_ok(),
            Lion::builder().clipvalue(f64::from(f32::MIN_POSITIVE) / 2.0).build().is_ok(),
        ];
        let refused = [
            LionStep::new(-tiny, 0.9, 0.99).is_err(),
            LionStep::new(0.1, -tiny, 0.99).is_err(),
            LionStep::new(0.1, 0.9, -tiny).is_err(),
            plain.weight_decay(-tiny).is_err(),
            plain.clip(Clip::Value(-tiny)).is_err(),
            plain.clip(Clip::Value(0.0)).is_err(),
            plain.clip(Clip::Norm { limit: 1.0, norm: -tiny }).is_err(),
            gradient.loss_scale(-tiny).is_err(),
            Ema::new(-tiny).is_err(),
        ];
        (accepted, refused)
    };
    assert_eq!(checks(), ([true; 7], [true; 9]));
    for (name, value) in STATES {
        assert_eq!(under(value, name, checks), ([true; 7], [true; 9]), "{name}");
    }
}

/// Betas whose difference from 1 is exact in every state are subtracted in the caller's.
#[test]
fn the_factors_of_a_step_do_not_depend_on_the_state() {
    let betas = [0.0, 1e-41, 0.1, 0.5_f32.next_down(), 0.5, 0.7, 0.9, 0.99, 1.0_f32.next_down(), 1.0];
    let pairs = || betas.iter().flat_map(|beta_1| betas.map(|beta_2| (*beta_1, beta_2)));
    let steps = || pairs().map(|(beta_1, beta_2)| LionStep::new(0.1, beta_1, beta_2)).collect::<Vec<_>>();
    // As texts, which tell -0 from 0.
    let expected: Vec<_> = steps().iter().map(|step| format!("{step:?}")).collect();
    for (name, value) in STATES {
        let found = under(value, name, || black_box(steps()));
        assert_eq!(found.iter().map(|step| format!("{step:?}")).collect::<Vec<_>>(), expected, "{name}");
    }
}

/// Returns an optimizer with a schedule, decay, global norm clipping, an EMA, and a dynamic loss scale.
fn optimizer(backend: Backend) -> Lion {
    let mut scale = DynamicLossScale::default();
    (scale.initial_scale, scale.dynamic_growth_steps) = (3.0, 2);
    let builder = Lion::builder().learning_rate(CosineDecay::new(0.01, 20.0).expect("valid"));
    let builder = builder.weight_decay(0.1).global_clipnorm(1.5).ema(0.9).ema_overwrite_frequency(2);
    builder.dynamic_loss_scale(scale).plan(plan(backend)).build().expect("valid")
}

fn a_training(backend: Backend) {
    const CALLS: usize = 4;
    let mut rng = Rng::with_seed(0xf4);
    let hosts = Hosts::new();
    let shapes: Vec<_> =
        Dtype::for_role(Role::Gradient).flat_map(|dtype| [(dtype, 30), (dtype, LEN)]).collect();
    let mut tensors = || -> Vec<TensorBuf> {
        let tensor = |&(dtype, len): &(Dtype, usize)| {
            let mut tensor = TensorBuf::zeroed(dtype, len).expect("memory");
            fill(&mut rng, &mut tensor.to_mut(), false);
            let small = numbers::<f32>(&mut rng, len / 2);
            tensor.to_mut().write_f32(0, &small).expect("within");
            tensor
        };
        shapes.iter().map(tensor).collect()
    };
    let start = tensors();
    let gradients: Vec<_> = (0..CALLS).map(|_| tensors()).collect();
    hosts.check(&format!("a training on {backend}"), || {
        let mut optimizer = optimizer(backend);
        let mut parameters = start.clone();
        let mut numbers = Vec::new();
        let mut ids = Vec::new();
        for (index, &(dtype, len)) in shapes.iter().enumerate() {
            let constraint = (index == 1).then(|| Constraint::max_norm(0.7, lion::Axes::All).expect("valid"));
            let options = VariableOptions { constraint, ..Default::default() };
            ids.push(optimizer.register_with(&format!("v{index}"), &[len], dtype, options).expect("new"));
        }
        for gradients in &gradients {
            numbers.extend([optimizer.learning_rate(), optimizer.scale_loss(0.1)].map(f32::to_bits));
            let each = parameters.iter_mut().zip(gradients).zip(&ids);
            let mut updates: Vec<_> =
                each.map(|((p, g), &id)| Update::new(id, p.to_mut(), g.to_ref())).collect();
            let metrics = optimizer.apply(&mut updates).expect("valid");
            numbers.extend([metrics.learning_rate, metrics.gradient_norm.unwrap_or(0.0)].map(f32::to_bits));
            numbers.extend(metrics.loss_scale.map(f32::to_bits));
        }
        let mut found: Vec<_> = parameters.iter().map(|tensor| tensor_bits(tensor.to_ref())).collect();
        for variable in optimizer.variables() {
            found.extend(variable.momentum.map(tensor_bits));
            found.extend(variable.ema.map(bits));
        }
        (numbers, found)
    });
}
