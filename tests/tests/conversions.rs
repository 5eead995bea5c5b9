//! Conversions between formats: every backend compared with the reference, and both compared with the crate half.

use half::{bf16, f16};
use lion_kernels::{Backend, TensorMut, TensorRef};
use lion_tests::alone::convert;
use lion_tests::{Guarded, Rng, Sample, on_each_backend, values};

on_each_backend!(
    every_16_bit_value_loads,
    every_boundary_stores,
    every_payload_of_nan_stores_as_a_quiet_nan,
    every_pair_of_formats_and_length
);

/// A 16-bit format with the conversions of the crate half.
trait Sixteen: Sample {
    fn half_widens(self) -> f32;
    fn half_rounds(value: f32) -> Self;
}

impl Sixteen for f16 {
    fn half_widens(self) -> f32 {
        self.to_f32()
    }
    fn half_rounds(value: f32) -> Self {
        f16::from_f32(value)
    }
}

impl Sixteen for bf16 {
    fn half_widens(self) -> f32 {
        self.to_f32()
    }
    fn half_rounds(value: f32) -> Self {
        bf16::from_f32(value)
    }
}

fn all<T: Sixteen>() -> Vec<T> {
    (0..1 << 16).map(T::from_low_bits).collect()
}

fn every_16_bit_value_loads(backend: Backend) {
    fn format<T: Sixteen>(backend: Backend) {
        let all = all::<T>();
        let mut found = vec![0.0_f32; all.len()];
        convert(backend, TensorRef::from(&all), &mut found).expect("a conversion");
        for (value, found) in all.iter().zip(found) {
            assert_eq!(found.comparable(), value.half_widens().comparable(), "{value:?} against half");
            assert_eq!(found.comparable(), value.widen().comparable(), "{value:?} against the reference");
            assert_eq!(found.is_nan(), value.half_widens().is_nan());
        }
    }
    format::<f16>(backend);
    format::<bf16>(backend);
}

/// Returns each value of the format, its neighbours in f32, the exact tie with the next value, and the tie's
/// neighbours.
fn boundaries<T: Sixteen>() -> Vec<f32> {
    let mut boundaries = Vec::new();
    for value in all::<T>() {
        let this = value.half_widens();
        let next = T::from_low_bits(value.comparable() + 1).half_widens();
        let tie = ((f64::from(this) + f64::from(next)) / 2.0) as f32;
        for middle in [this, tie] {
            boundaries.extend([middle.next_down(), middle, middle.next_up()]);
        }
    }
    // The threshold of rounding to infinity: half a unit above the largest number.
    boundaries.extend(
        [65519.0, 65519.996, 65520.0, 3.394e38, 3.396e38, f32::MAX].into_iter().flat_map(|x| [x, -x]),
    );
    boundaries
}

fn every_boundary_stores(backend: Backend) {
    fn format<T: Sixteen>(backend: Backend) {
        let boundaries = boundaries::<T>();
        let mut found = vec![T::default(); boundaries.len()];
        convert(backend, &boundaries, TensorMut::from(&mut found)).expect("a conversion");
        for (value, found) in boundaries.iter().zip(found) {
            assert_eq!(found.comparable(), T::half_rounds(*value).comparable(), "{value:e} against half");
            assert_eq!(found.comparable(), T::round(*value).comparable(), "{value:e} against the reference");
        }
    }
    format::<f16>(backend);
    format::<bf16>(backend);
}

/// Truncating the payload of a NaN must not turn it into an infinity.
fn every_payload_of_nan_stores_as_a_quiet_nan(backend: Backend) {
    fn format<T: Sixteen>(backend: Backend, quiet: u32) {
        let payloads = (0..23).map(|bit| 1 << bit).chain([0x007f_ffff]);
        let every: Vec<f32> = payloads
            .flat_map(|payload| [0x7f80_0000, 0xff80_0000].map(|sign| f32::from_bits(sign | payload)))
            .collect();
        let mut found = vec![T::default(); every.len()];
        convert(backend, &every, TensorMut::from(&mut found)).expect("a conversion");
        for (value, found) in every.iter().zip(found) {
            assert_eq!(found.low_bits() & quiet, quiet, "{:#x}", value.to_bits());
            assert_eq!(T::round(*value).low_bits() & quiet, quiet, "{:#x}, the reference", value.to_bits());
        }
    }
    format::<f16>(backend, 0x7e00);
    format::<bf16>(backend, 0x7fc0);
}

fn every_pair_of_formats_and_length(backend: Backend) {
    fn pair<S: Sample, T: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x71);
        for len in 0..=4 * 32 + 1 {
            let source = values::<S>(&mut rng, len);
            let expected: Vec<T> = source.iter().map(|value| T::round(value.widen())).collect();
            let source = Guarded::new(&source, rng.usize(..32));
            let mut target = Guarded::new(&values::<T>(&mut rng, len), rng.usize(..32));
            convert(backend, TensorRef::from(source.tensor()), TensorMut::from(target.tensor_mut()))
                .expect("a conversion");
            target.assert_holds(&expected, &format!("{} to {}", S::DTYPE, T::DTYPE));
        }
    }
    pair::<f32, f32>(backend);
    pair::<f32, f16>(backend);
    pair::<f32, bf16>(backend);
    pair::<f16, f32>(backend);
    pair::<f16, f16>(backend);
    pair::<f16, bf16>(backend);
    pair::<bf16, f32>(backend);
    pair::<bf16, f16>(backend);
    pair::<bf16, bf16>(backend);
}
