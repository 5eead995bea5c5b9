//! Robust timing on a shared, noisy machine.
//!
//! A single time depends more on other load than on the code. So [`compare`] times two pieces of work in alternation, and
//! returns the median of the ratios of neighbouring samples with its 10th and 90th percentiles. A sample repeats its work
//! for at least 100 µs. On a [`MachineBench`] it also lasts at least a thousand times the resolution of the clock.
//!
//! The tuner compares many candidates in the same way, on a [`Bench`].
//!
//! In a training run other work happens between two calls: threads go to sleep, caches hold other data, and vector units
//! are in use.
//! [`Calls::Apart`] measures that. [`Calls::BackToBack`] measures the best that the kernels can do.

mod bench;
mod calls;
mod check;
mod estimate;
mod machine_bench;

pub use bench::{Bench, Caches};
pub use calls::Calls;
pub(crate) use estimate::{bootstrap, median_interval, midmean};
pub use machine_bench::MachineBench;

use std::time::{Duration, Instant};

use self::calls::Timer;

/// The minimum time of a sample.
const MIN_SAMPLE_TIME: Duration = Duration::from_micros(100);

/// The minimum number of pairs, even if the time is over.
const MIN_PAIRS: usize = 7;

/// The median, and the band that holds eight of ten samples.
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
    /// Computes the quantiles, which are NaN without samples. Sorts the samples.
    pub fn of(samples: &mut [f64]) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = share * samples.len().saturating_sub(1) as f64;
            samples.get(index.round() as usize).copied().unwrap_or(f64::NAN)
        };
        Quantiles { p10: at(0.1), median: at(0.5), p90: at(0.9) }
    }
}

/// The result of [`compare`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Nanoseconds of a call of the work.
    pub work: Quantiles,
    /// Nanoseconds of a call of the baseline.
    pub baseline: Quantiles,
    /// The ratio of work to baseline, pair by pair.
    pub ratio: Quantiles,
    /// The number of pairs.
    pub samples: usize,
}

/// Times `work` and `baseline` in alternation for about `time`, after a warm-up of one sample each. `calls` sets how the
/// calls follow each other. Both work on `state`.
///
/// A sample has an even number of calls. So work that undoes itself at each second call leaves the state as it was.
pub fn compare<S>(
    time: Duration,
    calls: Calls,
    state: &mut S,
    mut work: impl FnMut(&mut S),
    mut baseline: impl FnMut(&mut S),
) -> Comparison {
    let mut timer = Timer::new(calls);
    let work_calls = timer.calls_per_sample(state, &mut work);
    let baseline_calls = timer.calls_per_sample(state, &mut baseline);
    let (mut works, mut baselines, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let start = Instant::now();
    while ratios.len() < MIN_PAIRS || start.elapsed() < time {
        let baseline = timer.nanoseconds(state, baseline_calls, &mut baseline);
        let work = timer.nanoseconds(state, work_calls, &mut work);
        works.push(work);
        baselines.push(baseline);
        ratios.push(work / baseline);
    }
    let samples = ratios.len();
    Comparison {
        work: Quantiles::of(&mut works),
        baseline: Quantiles::of(&mut baselines),
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
            assert_eq!(found.samples, MIN_PAIRS);
        }
    }
}
