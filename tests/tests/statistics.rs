//! Gradient statistics: every backend compared bit for bit with the reference, whole and in chunks.

use half::{bf16, f16};
use lion_kernels::reference::Settings;
use lion_kernels::{Backend, GradientStatistics, GradientTransform, STATISTICS_BLOCK};
use lion_tests::alone::block_statistics;
use lion_tests::{Guarded, Rng, Sample, on_each_backend, values};

on_each_backend!(
    every_length,
    unscaled_and_averaged,
    unscaled_by_zero_and_infinity,
    every_split_into_chunks,
    non_finite_elements_are_counted
);

fn of_reference<G: Sample>(pass: &Settings, gradient: &[G], sums: Option<&[f32]>) -> GradientStatistics {
    let (sum_of_squares, non_finite, max_abs) = pass.statistics(gradient, sums);
    GradientStatistics { sum_of_squares, non_finite, max_abs }
}

#[track_caller]
fn assert_same(found: GradientStatistics, expected: GradientStatistics, what: &str) {
    let bits = |s: GradientStatistics| {
        let sum = if s.sum_of_squares.is_nan() { f64::NAN } else { s.sum_of_squares };
        (sum.to_bits(), s.non_finite, s.max_abs.to_bits())
    };
    assert!(bits(found) == bits(expected), "{what}: found {found:?}, expected {expected:?}");
}

/// Returns values without NaN and infinities, which would hide all other differences in the sum.
fn finite<G: Sample>(rng: &mut Rng, len: usize) -> Vec<G> {
    let mut all = values::<G>(rng, len);
    for value in &mut all {
        while !value.widen().is_finite() {
            *value = values::<G>(rng, 1)[0];
        }
    }
    all
}

fn lengths() -> impl Iterator<Item = usize> {
    let around = |middle: usize| middle - 35..=middle + 35;
    (0..=129)
        .chain(around(STATISTICS_BLOCK))
        .chain(around(2 * STATISTICS_BLOCK))
        .chain([5 * STATISTICS_BLOCK + 1234])
}

fn every_length(backend: Backend) {
    fn format<G: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x61);
        for len in lengths() {
            for gradient in [finite::<G>(&mut rng, len), values::<G>(&mut rng, len)] {
                let expected = of_reference(&Settings::default(), &gradient, None);
                let gradient = Guarded::new(&gradient, rng.usize(..32));
                let found =
                    GradientStatistics::measure(backend, &GradientTransform::new(), gradient.tensor(), None);
                assert_same(
                    found.expect("statistics"),
                    expected,
                    &format!("{} elements of {}", len, G::DTYPE),
                );
            }
        }
    }
    format::<f32>(backend);
    format::<f16>(backend);
    format::<bf16>(backend);
}

fn unscaled_and_averaged(backend: Backend) {
    let mut rng = Rng::with_seed(0x62);
    for len in lengths() {
        let (gradient, sums) = (finite::<bf16>(&mut rng, len), finite::<f32>(&mut rng, len));
        let pass = Settings { loss_scale: Some(7.0), accumulation_steps: Some(3), ..Settings::default() };
        let settings =
            GradientTransform::new().loss_scale(7.0).and_then(|it| it.average_over(3)).expect("valid");
        let found =
            GradientStatistics::measure(backend, &settings, &gradient, Some(&sums)).expect("statistics");
        assert_same(found, of_reference(&pass, &gradient, Some(&sums)), &format!("{len} elements"));
    }
}

/// The extreme values of a dynamic loss scale. Lanes beyond the end of the gradient must not affect the result.
fn unscaled_by_zero_and_infinity(backend: Backend) {
    let mut rng = Rng::with_seed(0x64);
    for len in lengths() {
        let zeros = finite::<f32>(&mut rng, len);
        let none: Vec<f32> = zeros.iter().map(|&value| if value == 0.0 { 1.0 } else { value }).collect();
        for (gradient, loss_scale) in [(&none, 0.0), (&zeros, 0.0), (&none, f32::INFINITY)] {
            let pass = Settings { loss_scale: Some(loss_scale), ..Settings::default() };
            let settings = GradientTransform::new().loss_scale(loss_scale).expect("valid");
            let found = GradientStatistics::measure(backend, &settings, gradient, None).expect("statistics");
            let what = format!("{len} elements over {loss_scale}");
            assert_same(found, of_reference(&pass, gradient, None), &what);
        }
        let infinite = GradientStatistics::measure(
            backend,
            &GradientTransform::new().loss_scale(0.0).expect("valid"),
            &none,
            None,
        );
        assert_eq!(infinite.expect("statistics").sum_of_squares, if len == 0 { 0.0 } else { f64::INFINITY });
    }
}

fn every_split_into_chunks(backend: Backend) {
    let mut rng = Rng::with_seed(0x63);
    let gradient = finite::<f32>(&mut rng, 9 * STATISTICS_BLOCK + 777);
    let whole =
        GradientStatistics::measure(backend, &GradientTransform::new(), &gradient, None).expect("statistics");
    for chunk in 1..=10 {
        let mut blocks = vec![GradientStatistics::default(); gradient.len().div_ceil(STATISTICS_BLOCK)];
        // From the last chunk to the first, because the order of execution must not matter.
        let chunks = gradient.chunks(chunk * STATISTICS_BLOCK).zip(blocks.chunks_mut(chunk));
        for (part, places) in chunks.collect::<Vec<_>>().into_iter().rev() {
            block_statistics(backend, &GradientTransform::new(), part, None, places).expect("statistics");
        }
        assert_same(GradientStatistics::from_blocks(&blocks), whole, &format!("chunks of {chunk} blocks"));
    }
}

fn non_finite_elements_are_counted(backend: Backend) {
    for place in 0..70 {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut gradient = vec![2.0; 70];
            gradient[place] = bad;
            let found = GradientStatistics::measure(backend, &GradientTransform::new(), &gradient, None)
                .expect("statistics");
            assert_eq!((found.non_finite, found.max_abs), (1, 2.0));
            assert!(!found.sum_of_squares.is_finite());
        }
    }
}
