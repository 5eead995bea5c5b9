//! All 2^32 bit patterns of f32 through the stores of both 16-bit formats, and through the exact split and back.
//!
//! The test compares the reference with the crate half once, element by element. It compares each backend with them
//! through a digest, because every backend, even an emulated one, must see every pattern. If a digest differs, the test
//! searches for the first element that differs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use lion_kernels::{Backend, Dtype, TensorBuf, TensorMut};
use lion_tests::alone::convert;
use lion_tests::{Sample, on_each_backend};

/// Digests of the correct results, over all patterns in order.
const F16: u64 = 6_477_494_354_444_435_730;
const BF16: u64 = 8_524_268_825_026_073_192;

/// The number of patterns that a thread takes at a time.
const CHUNK: u32 = 1 << 16;

on_each_backend!(every_f32_stored_as_f16, every_f32_stored_as_bf16, every_f32_split_and_joined);

fn every_f32_stored_as_f16(backend: Backend) {
    every_f32_stored::<f16>(backend, F16);
}

fn every_f32_stored_as_bf16(backend: Backend) {
    every_f32_stored::<bf16>(backend, BF16);
}

fn every_f32_stored<T: Sample>(backend: Backend, expected: u64) {
    let by_backend = |patterns: &[f32], found: &mut [T]| {
        convert(backend, patterns, TensorMut::from(found)).expect("a conversion");
    };
    if digest(by_backend) == expected {
        return;
    }
    each_chunk(|_, patterns| {
        let mut found = vec![T::default(); patterns.len()];
        by_backend(patterns, &mut found);
        for (value, found) in patterns.iter().zip(found) {
            let expected = T::round(*value);
            assert!(
                found.comparable() == expected.comparable(),
                "{value:e}: found {found:?}, expected {expected:?}"
            );
        }
    });
    panic!("the digest of {} has changed, and the reference with it", T::DTYPE);
}

/// Two halves represent every number exactly, and the high half alone is the nearest bfloat16.
fn every_f32_split_and_joined(backend: Backend) {
    each_chunk(|index, patterns| {
        let mut split = TensorBuf::zeroed(Dtype::Split, patterns.len()).expect("memory");
        convert(backend, patterns, split.to_mut()).expect("a conversion");
        let mut joined = vec![0.0; patterns.len()];
        convert(backend, split.to_ref(), TensorMut::from(&mut joined)).expect("a conversion");
        // Loops without an early exit are vectorised, and therefore fast enough for an emulator.
        let same = patterns.iter().zip(&joined).fold(true, |same, (value, joined)| {
            let is_nan = value.is_nan() & (joined.to_bits() == f32::NAN.to_bits());
            same & ((value.to_bits() == joined.to_bits()) | is_nan)
        });
        assert!(same, "upper half {index:#x}");
        let high = split.to_ref().stream(0).expect("halves").as_slice::<bf16>().expect("bf16");
        let nearest = patterns.iter().zip(high).fold(true, |nearest, (value, high)| {
            let away_from_zero = (value.to_bits().wrapping_add(0x8000) >> 16) as u16;
            nearest & (high.to_bits() == if value.is_nan() { 0x7fc0 } else { away_from_zero })
        });
        assert!(nearest, "high halves of upper half {index:#x}");
    });
}

#[test]
fn reference_and_half_agree_on_every_f32() {
    fn format<T: Sample>(half: impl Fn(&[f32], &mut [T]) + Sync) -> u64 {
        digest(|patterns, found: &mut [T]| {
            half(patterns, found);
            for (value, found) in patterns.iter().zip(found) {
                let ours = T::round(*value);
                assert!(
                    found.comparable() == ours.comparable(),
                    "{value:e}: {ours:?}, but half says {found:?}"
                );
            }
        })
    }
    let f16 = format(|patterns, found: &mut [f16]| found.convert_from_f32_slice(patterns));
    let bf16 = format(|patterns, found: &mut [bf16]| found.convert_from_f32_slice(patterns));
    assert_eq!((f16, bf16), (F16, BF16), "digests of f16 and bf16");
}

/// Returns a digest of a conversion's results for every pattern. Each chunk contributes the sum of its results times
/// odd weights, mixed with the chunk's index. Any single difference changes the sum. The loop is vectorised, and
/// therefore fast enough for an emulator.
fn digest<T: Sample>(conversion: impl Fn(&[f32], &mut [T]) + Sync) -> u64 {
    let weights: Vec<u32> = (0..CHUNK).map(|place| place.wrapping_mul(0x9e37_79b9) | 1).collect();
    let total = Mutex::new(0_u64);
    each_chunk(|index, patterns| {
        let mut found = vec![T::default(); patterns.len()];
        conversion(patterns, &mut found);
        // Only NaN inputs give NaN results, and only a NaN has more than one bit pattern.
        let special = index & 0x7f80 == 0x7f80;
        let sum = match special {
            true => weighted_sum(&found, &weights, T::comparable),
            false => weighted_sum(&found, &weights, T::low_bits),
        };
        let mixed = (u64::from(index) << 32 | u64::from(sum)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut total = total.lock().expect("no thread has failed");
        *total = total.wrapping_add(mixed ^ mixed >> 29);
    });
    total.into_inner().expect("no thread has failed")
}

fn weighted_sum<T: Sample>(found: &[T], weights: &[u32], bits: impl Fn(T) -> u32) -> u32 {
    let products = found.iter().zip(weights).map(|(value, weight)| bits(*value).wrapping_mul(*weight));
    products.fold(0, u32::wrapping_add)
}

/// Calls `work` with every chunk's index and patterns, on all cores.
fn each_chunk(work: impl Fn(u32, &[f32]) + Sync) {
    let next = AtomicU32::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut patterns = vec![0.0; CHUNK as usize];
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index > u32::MAX / CHUNK {
                        break;
                    }
                    for (offset, pattern) in (0..CHUNK).zip(&mut patterns) {
                        *pattern = f32::from_bits(index * CHUNK + offset);
                    }
                    work(index, &patterns);
                }
            });
        }
    });
}
