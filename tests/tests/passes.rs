//! Passes other than the step: every backend compared bit for bit with the reference.

use half::{bf16, f16};
use lion_kernels::reference::Settings;
use lion_kernels::{Backend, GradientTransform};
use lion_tests::alone::{accumulate, update_ema};
use lion_tests::{Case, Rng, Sample, on_each_backend, values};

on_each_backend!(accumulation, moving_average, division_by_every_power_of_two);

/// Four chunks of the longest vectors, and one element.
const LENGTHS: std::ops::RangeInclusive<usize> = 0..=4 * 32 + 1;

fn accumulation(backend: Backend) {
    fn format<G: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x51);
        for len in LENGTHS {
            for loss_scale in [None, Some(3.0), Some(1024.0), Some(0.0), Some(f32::INFINITY)] {
                let pass = Settings { loss_scale, ..Settings::default() };
                let case = Case::<f32, G, f32>::new(&mut rng, pass, None, len);
                case.check_accumulate(|settings, sums, gradient| {
                    accumulate(backend, settings, sums, gradient)
                });
            }
        }
    }
    format::<f32>(backend);
    format::<f16>(backend);
    format::<bf16>(backend);
}

fn moving_average(backend: Backend) {
    fn format<P: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x52);
        for len in LENGTHS {
            for (momentum, ema_overwrite) in [(0.99, false), (0.0, false), (0.9, true)] {
                let pass = Settings { ema_momentum: Some(momentum), ema_overwrite, ..Settings::default() };
                let case = Case::<P, f32, f32>::new(&mut rng, pass, None, len);
                case.check_average(|ema, averages, parameter| update_ema(backend, ema, averages, parameter));
            }
        }
    }
    format::<f32>(backend);
    format::<f16>(backend);
    format::<bf16>(backend);
}

/// Kernels multiply by the exact reciprocal of a power of two, up to both ends of the format.
fn division_by_every_power_of_two(backend: Backend) {
    let mut rng = Rng::with_seed(0x53);
    for exponent in -149..=127 {
        let divisor = 2.0_f64.powi(exponent) as f32;
        for neighbour in [divisor, divisor.next_up(), divisor.next_down()] {
            let mut gradient: Vec<f32> = values(&mut rng, 499);
            // The reciprocal of the largest subnormal number is nearly exact; this value shows the difference.
            gradient.push(12_582_911.0 * 2.0_f32.powi(-60));
            let settings = GradientTransform::new().loss_scale(neighbour).expect("valid");
            // Adding -0 leaves every quotient unchanged.
            let mut quotients = vec![-0.0_f32; gradient.len()];
            accumulate(backend, &settings, &mut quotients, &gradient).expect("a pass");
            for (found, value) in quotients.iter().zip(gradient) {
                let expected = value / neighbour;
                assert_eq!(found.comparable(), expected.comparable(), "{value:e} / {neighbour:e}");
            }
        }
    }
}
