//! Timing that can be trusted on a machine that others use too.
//!
//! A single time says more about the machine's neighbours than about the code. So two pieces of work are timed in
//! turn, each sample of the one next to a sample of the other, and what is quoted is the median of the ratios of
//! such pairs, with the 10th and the 90th percentile beside it. A sample repeats its work until it takes 100 µs or
//! more; on [`Scratch`] also at least a thousand times what the clock can tell apart.
//!
//! [`compare`] does that for two; the tuner's races do it for many, on a [`Rig`].
//!
//! A training run does other work between two calls: threads go to sleep, and caches hold other data. [`Calls::Apart`]
//! measures that, [`Calls::BackToBack`] what the kernels can do at best.

mod apart;
mod check;
mod estimate;
mod rig;
mod scratch;

pub use apart::Calls;
pub(crate) use apart::wait_idly;
pub(crate) use estimate::{bootstrap, median_interval, midmean};
pub use rig::{Caches, Rig};
pub use scratch::Scratch;

use std::time::{Duration, Instant};

use self::apart::Timer;

/// The least time a sample takes.
const SAMPLE: Duration = Duration::from_micros(100);

/// The least number of pairs, even where the time is up before.
const LEAST_PAIRS: usize = 7;

/// The median and the band around it that holds eight of ten samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiles {
    /// The 10th percentile.
    pub p10: f64,
    /// The median.
    pub median: f64,
    /// The 90th percentile.
    pub p90: f64,
}

impl Quantiles {
    /// Of at least one sample; of none, NaN. Sorts the samples.
    pub fn of(samples: &mut [f64]) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * samples.len().saturating_sub(1) as f64;
            samples.get(place.round() as usize).copied().unwrap_or(f64::NAN)
        };
        Quantiles { p10: at(0.1), median: at(0.5), p90: at(0.9) }
    }
}

/// Two pieces of work timed in turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Nanoseconds of one call of the work.
    pub work: Quantiles,
    /// Nanoseconds of one call of what it is measured against.
    pub limit: Quantiles,
    /// Work over limit, pair by pair.
    pub ratio: Quantiles,
    /// The number of pairs.
    pub samples: usize,
}

/// Times `work` against `limit` in turn for about `time`, after a warm-up of one sample each, each called as `calls` says.
///
/// Both are called an even number of times in a sample, so that work which undoes itself leaves nothing behind.
/// `state` is what both work on.
pub fn compare<S>(
    time: Duration,
    calls: Calls,
    state: &mut S,
    mut work: impl FnMut(&mut S),
    mut limit: impl FnMut(&mut S),
) -> Comparison {
    let mut timer = Timer::new(calls);
    let work_calls = timer.calls_per_sample(state, &mut work);
    let limit_calls = timer.calls_per_sample(state, &mut limit);
    let (mut works, mut limits, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let start = Instant::now();
    while ratios.len() < LEAST_PAIRS || start.elapsed() < time {
        let limit = timer.nanoseconds(state, limit_calls, &mut limit);
        let work = timer.nanoseconds(state, work_calls, &mut work);
        works.push(work);
        limits.push(limit);
        ratios.push(work / limit);
    }
    let samples = ratios.len();
    Comparison {
        work: Quantiles::of(&mut works),
        limit: Quantiles::of(&mut limits),
        ratio: Quantiles::of(&mut ratios),
        samples,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_known_samples() {
        let mut samples: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(Quantiles::of(&mut samples), Quantiles { p10: 10.0, median: 50.0, p90: 90.0 });
        assert!(Quantiles::of(&mut []).median.is_nan());
    }

    #[test]
    fn both_are_called_an_even_number_of_times() {
        for &how in Calls::ALL {
            let mut calls = (0_u64, 0_u64);
            let found = compare(Duration::ZERO, how, &mut calls, |calls| calls.0 += 1, |calls| calls.1 += 1);
            assert_eq!((calls.0 % 2, calls.1 % 2), (0, 0));
            assert_eq!(found.samples, LEAST_PAIRS);
        }
    }
}
