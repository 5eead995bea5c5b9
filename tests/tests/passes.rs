//! The passes beside the step, of every backend, against the reference, by bits.

use half::{bf16, f16};
use lion_kernels::reference::Pass;
use lion_kernels::{Backend, Ema, Gradient, accumulate, average};
use lion_tests::{Guarded, Rng, Sample, on_each_backend, values};

on_each_backend!(accumulation, moving_average);

/// Four blocks of the longest vectors, and one element.
const LENGTHS: std::ops::RangeInclusive<usize> = 0..=4 * 32 + 1;

fn accumulation(backend: Backend) {
    fn format<G: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x51);
        for len in LENGTHS {
            for unscale in [None, Some(3.0), Some(0.0), Some(f32::INFINITY)] {
                let (sums, gradient) = (values::<f32>(&mut rng, len), values::<G>(&mut rng, len));
                let mut expected = sums.clone();
                Pass { unscale, ..Pass::default() }.accumulate(&mut expected, &gradient);

                let settings = match unscale {
                    Some(divisor) => Gradient::new().unscale(divisor).expect("valid"),
                    None => Gradient::new(),
                };
                let mut found = Guarded::new(&sums, rng.usize(..16));
                let gradient = Guarded::new(&gradient, rng.usize(..32));
                accumulate(backend, &settings, found.tensor_mut(), G::slice(gradient.tensor()))
                    .expect("a pass");
                found.assert_holds(&expected, &format!("accumulated {} / {unscale:?}", G::DTYPE));
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
            for (momentum, overwrite) in [(0.99, false), (0.0, false), (0.9, true)] {
                let (averages, parameter) = (values::<f32>(&mut rng, len), values::<P>(&mut rng, len));
                let (mut expected, mut moved) = (averages.clone(), parameter.clone());
                let pass = Pass { ema_momentum: Some(momentum), ema_overwrite: overwrite, ..Pass::default() };
                pass.average(&mut expected, &mut moved);

                let ema = Ema::new(momentum).expect("valid").overwrite(overwrite);
                let mut found = Guarded::new(&averages, rng.usize(..16));
                let mut parameter = Guarded::new(&parameter, rng.usize(..32));
                average(backend, &ema, found.tensor_mut(), P::slice_mut(parameter.tensor_mut()))
                    .expect("a pass");
                let what = format!("EMA {momentum} of {}, overwriting: {overwrite}", P::DTYPE);
                found.assert_holds(&expected, &what);
                parameter.assert_holds(&moved, &what);
            }
        }
    }
    format::<f32>(backend);
    format::<f16>(backend);
    format::<bf16>(backend);
}
