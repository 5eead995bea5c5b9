//! Calls back to back, and calls apart, as a training run makes them.

use std::hint;
use std::time::{Duration, Instant};

use super::SAMPLE;

/// The time between two calls that are apart. By then a pool's workers sleep; on a virtual machine so does their core.
const PAUSE: Duration = Duration::from_millis(1);

/// Other memory that is read in a pause: more than most cores have of cache for themselves.
const OTHER_BYTES: usize = 32 << 20;

/// What happens between two calls that are timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Calls {
    /// Nothing: threads are awake, and caches hold what the call before left in them.
    #[default]
    BackToBack,
    /// For a millisecond the caller reads other memory: threads sleep, and caches hold other data.
    Apart,
}

impl Calls {
    /// Both.
    pub const ALL: &'static [Calls] = &[Calls::BackToBack, Calls::Apart];

    /// The name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Calls::BackToBack => "back-to-back",
            Calls::Apart => "apart",
        }
    }
}

/// Times calls in one of the two ways.
#[derive(Debug)]
pub(super) struct Timer {
    /// For calls that are apart: other memory, and how far it was read.
    others: Option<(Vec<u64>, usize)>,
}

impl Timer {
    pub(super) fn new(calls: Calls) -> Self {
        let others = match calls {
            Calls::BackToBack => None,
            Calls::Apart => {
                let mut memory = Vec::new();
                // Without memory the pause is one without reading.
                if memory.try_reserve_exact(OTHER_BYTES / size_of::<u64>()).is_ok() {
                    memory.resize(OTHER_BYTES / size_of::<u64>(), 1);
                }
                Some((memory, 0))
            }
        };
        Timer { others }
    }

    /// An even number of calls: back to back as many as take a sample's time. A pause is longer than that.
    pub(super) fn calls_per_sample<S>(&mut self, state: &mut S, work: &mut impl FnMut(&mut S)) -> u32 {
        let mut calls = 2;
        let long_enough = SAMPLE.as_nanos() as f64;
        while self.nanoseconds(state, calls, work) * f64::from(calls) < long_enough
            && calls < 1 << 30
            && self.others.is_none()
        {
            calls *= 2;
        }
        calls
    }

    /// The mean time of so many calls.
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

/// Reads memory from where it was left, in a circle, for the length of a pause.
fn read(memory: &[u64], next: &mut usize) {
    /// Between two looks at the clock: 16 KiB.
    const PART: usize = 2048;
    let start = Instant::now();
    while start.elapsed() < PAUSE {
        let part = memory.get(*next..).unwrap_or_default();
        let part = part.get(..PART).unwrap_or(part);
        hint::black_box(part.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value)));
        *next = if part.is_empty() { 0 } else { *next + part.len() };
    }
}

/// Waits for the length of a pause without touching memory, so that threads sleep and caches stay as they are.
pub(crate) fn wait_idly() {
    let start = Instant::now();
    while start.elapsed() < PAUSE {
        hint::spin_loop();
    }
}
