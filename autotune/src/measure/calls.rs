//! Times calls back to back, or apart as in a training run.

use std::hint;
use std::time::{Duration, Instant};

use lion_kernels::{Backend, LionStep, StepTensors, Task};

use super::MIN_SAMPLE_TIME;
use crate::Error;

/// The pause between two calls that are apart. By its end the workers of a pool sleep, and on a virtual machine so do their
/// cores.
const PAUSE: Duration = Duration::from_millis(1);

/// The size of the other memory that the caller reads in a pause. It exceeds the private caches of most cores.
const OTHER_BYTES: usize = 32 << 20;

/// How timed calls follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Calls {
    /// Without a pause: threads are awake, and caches hold the data of the previous call.
    #[default]
    BackToBack,
    /// With a pause of a millisecond, in which the caller computes and reads other memory: threads sleep, and caches hold
    /// other data.
    Apart,
}

impl Calls {
    /// All variants.
    pub const ALL: &'static [Calls] = &[Calls::BackToBack, Calls::Apart];

    /// Returns the name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Calls::BackToBack => "back-to-back",
            Calls::Apart => "apart",
        }
    }
}

/// Times calls.
#[derive(Debug)]
pub(super) struct Timer {
    /// For calls that are apart: the other memory, and the position in it.
    others: Option<(Vec<u64>, usize)>,
}

impl Timer {
    pub(super) fn new(calls: Calls) -> Self {
        let others = match calls {
            Calls::BackToBack => None,
            Calls::Apart => {
                let mut memory = Vec::new();
                // If the allocation fails, the pause does not read.
                if memory.try_reserve_exact(OTHER_BYTES / size_of::<u64>()).is_ok() {
                    memory.resize(OTHER_BYTES / size_of::<u64>(), 1);
                }
                Some((memory, 0))
            }
        };
        Timer { others }
    }

    /// Returns an even number of calls that takes the time of a sample. For calls apart it is 2, because a pause is longer
    /// than a sample.
    pub(super) fn calls_per_sample<S>(&mut self, state: &mut S, work: &mut impl FnMut(&mut S)) -> u32 {
        let mut calls = 2;
        let long_enough = MIN_SAMPLE_TIME.as_nanos() as f64;
        while self.nanoseconds(state, calls, work) * f64::from(calls) < long_enough
            && calls < 1 << 30
            && self.others.is_none()
        {
            calls *= 2;
        }
        calls
    }

    /// Returns the mean time of `calls` calls.
    pub(super) fn nanoseconds<S>(&mut self, state: &mut S, calls: u32, work: &mut impl FnMut(&mut S)) -> f64 {
        let mut time = Duration::ZERO;
        match &mut self.others {
            None => {
                let start = Instant::now();
                for _ in 0..calls {
                    work(state);
                }
                time = start.elapsed();
            }
            Some((memory, next)) => {
                for _ in 0..calls {
                    read(memory, next);
                    let start = Instant::now();
                    work(state);
                    time += start.elapsed();
                }
            }
        }
        time.as_nanos() as f64 / f64::from(calls)
    }
}

/// Reads the memory cyclically for the length of a pause, and continues at `next`.
fn read(memory: &[u64], next: &mut usize) {
    /// 16 KiB between two readings of the clock.
    const PART: usize = 2048;
    let start = Instant::now();
    while start.elapsed() < PAUSE {
        // If it fails, the pause does not compute.
        let _ = compute();
        let part = memory.get(*next..).unwrap_or_default();
        let part = part.get(..PART).unwrap_or(part);
        hint::black_box(part.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value)));
        *next = if part.is_empty() { 0 } else { *next + part.len() };
    }
}

/// Computes for the length of a pause, on little memory: threads sleep, and caches stay as they are.
pub(super) fn pause() -> Result<(), Error> {
    let start = Instant::now();
    while start.elapsed() < PAUSE {
        compute()?;
    }
    Ok(())
}

/// Computes with the processor's widest vectors, as the matrix products of a training run do before a step.
///
/// Intel's server cores start 512-bit arithmetic slowly: after a millisecond without it, an EMA of 64 KiB took 2.4 µs
/// instead of 1.2 µs. After PyTorch's matrix products, a step did not pay for that start
/// (`benches/results/defaults-intel-avx512.md`).
fn compute() -> Result<(), Error> {
    let (mut parameter, gradient, mut momentum) = ([1.0_f32; 256], [1.0_f32; 256], [1.0_f32; 256]);
    let tensors = StepTensors::in_place(&mut parameter[..], &gradient[..], &mut momentum[..]);
    Task::step(LionStep::new(0.0, 0.9, 0.99)?, tensors)?.run(Backend::best())?;
    hint::black_box(parameter);
    Ok(())
}
