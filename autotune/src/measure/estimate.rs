//! Robust statistics of samples: a mean that outliers do not move, and confidence intervals.

use fastrand::Rng;

/// Returns the mean of the middle half of the samples. Sorts them.
///
/// Samples are logarithms of times, or of ratios of neighbouring times. With ordinary noise the midmean is as stable as the
/// mean. Outliers do not move it, up to a quarter of the samples on each side.
pub(crate) fn midmean(samples: &mut [f64]) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    let outer = samples.len() / 4;
    let middle = samples.get(outer..samples.len() - outer).unwrap_or_default();
    if middle.is_empty() { f64::NAN } else { middle.iter().sum::<f64>() / middle.len() as f64 }
}

/// Returns a confidence interval of the median, of `sigmas` standard deviations. Uses only the ranks of the samples, which it
/// sorts. With too few samples the interval is their whole range.
pub(crate) fn median_interval(samples: &mut [f64], sigmas: f64) -> (f64, f64) {
    samples.sort_unstable_by(f64::total_cmp);
    let count = samples.len() as f64;
    let low = ((count - sigmas * count.sqrt()) / 2.0).floor().max(0.0) as usize;
    let at = |index: usize| samples.get(index).copied().unwrap_or(f64::NAN);
    (at(low), at(samples.len().saturating_sub(1 + low)))
}

/// Returns the 95 % confidence interval of the midmean, by bootstrap: from the midmeans of random resamples.
pub(crate) fn bootstrap(samples: &[f64], rng: &mut Rng) -> (f64, f64) {
    const DRAWS: usize = 400;
    if samples.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mut drawn = vec![0.0; samples.len()];
    let mut means: Vec<f64> = (0..DRAWS)
        .map(|_| {
            drawn.fill_with(|| samples.get(rng.usize(..samples.len())).copied().unwrap_or(f64::NAN));
            midmean(&mut drawn)
        })
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| means.get(index).copied().unwrap_or(f64::NAN);
    (at(DRAWS / 40), at(DRAWS - 1 - DRAWS / 40))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_does_not_move_the_midmean() {
        let mut samples: Vec<f64> = (0..100).map(|i| f64::from(i % 10)).collect();
        samples.extend([1e9; 20]);
        let found = midmean(&mut samples);
        assert!((4.0..7.0).contains(&found), "{found}");
        assert!(midmean(&mut []).is_nan());
        assert_eq!(midmean(&mut [3.0]), 3.0);
    }

    #[test]
    fn intervals_hold_what_they_promise() {
        let mut rng = Rng::with_seed(1);
        let (mut by_rank, mut by_draws) = (0, 0);
        for _ in 0..200 {
            let mut samples: Vec<f64> = (0..40).map(|_| rng.f64() - 0.5).collect();
            let (low, high) = bootstrap(&samples, &mut rng);
            by_draws += usize::from(low <= 0.0 && 0.0 <= high);
            let (low, high) = median_interval(&mut samples, 2.0);
            by_rank += usize::from(low <= 0.0 && 0.0 <= high);
        }
        assert!(by_rank >= 185, "{by_rank} of 200");
        assert!(by_draws >= 175, "{by_draws} of 200");
        assert_eq!(median_interval(&mut [2.0, 1.0], 3.0), (1.0, 2.0));
    }
}
