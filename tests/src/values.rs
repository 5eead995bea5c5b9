//! Random values of every class, and comparison by bits.

use half::{bf16, f16};
use lion_kernels::reference::{self, Float};
use lion_kernels::{Dtype, Element, TensorMut, TensorRef};

use crate::Rng;

/// An element type of the tests: created from arbitrary bits, and compared by bits.
pub trait Sample: Element + Float + PartialEq {
    /// Returns the element of the low bits of a 32-bit number.
    fn from_low_bits(bits: u32) -> Self;
    /// Returns the bits.
    fn low_bits(self) -> u32;
    /// Returns the bits, with one pattern for all NaNs, because sign and payload of a NaN are not specified.
    fn comparable(self) -> u32;
}

macro_rules! sample {
    ($type:ty, $bits:ty) => {
        impl Sample for $type {
            fn from_low_bits(bits: u32) -> Self {
                <$type>::from_bits(bits as $bits)
            }

            fn low_bits(self) -> u32 {
                self.to_bits().into()
            }

            fn comparable(self) -> u32 {
                if self.is_nan() { <$type>::NAN.low_bits() } else { self.low_bits() }
            }
        }
    };
}

sample!(f32, u32);
sample!(f16, u16);
sample!(bf16, u16);

macro_rules! integer {
    ($($type:ty)+) => {$(
        impl Sample for $type {
            fn from_low_bits(bits: u32) -> Self {
                bits as $type
            }

            fn low_bits(self) -> u32 {
                self as u32
            }

            fn comparable(self) -> u32 {
                self.low_bits()
            }
        }
    )+};
}

integer! { i8 i16 }

/// Returns `len` values of every class in random order: zeros of both signs, subnormals, ordinary numbers close
/// together, numbers of every exponent, the largest numbers, infinities, NaNs, arbitrary bits, and values halfway
/// between two numbers of a 16-bit format.
pub fn values<T: Sample>(rng: &mut Rng, len: usize) -> Vec<T> {
    (0..len).map(|_| value(rng)).collect()
}

fn value<T: Sample>(rng: &mut Rng) -> T {
    let sign = if rng.bool() { 1.0 } else { -1.0 };
    let of_f32 = |value: f32| T::round(sign * value);
    match rng.u32(0..20) {
        0 => of_f32(0.0),
        1 => of_f32(f32::from_bits(rng.u32(1..1 << 23))),
        2 => of_f32(f32::from_bits(rng.u32(1..1 << 10))),
        3 => of_f32(f32::INFINITY),
        // Truncating the payload turns some of these NaNs into an infinity.
        4 => T::round(f32::from_bits(0x7f80_0000 | 1 << rng.u32(..23))),
        5 => of_f32(f32::MAX),
        6 => of_f32(65504.0 + 16.0 * rng.u32(0..4) as f32),
        7 => of_f32(2.0_f32.powi(-14) - 2.0_f32.powi(-26) * rng.u32(0..9) as f32),
        8 => of_f32(1.0),
        // Halfway between two numbers of bfloat16, or of IEEE half.
        9 => of_f32(f32::from_bits(rng.u32(0x3000..0x4800) << 16 | 0x8000)),
        10 => of_f32(f32::from_bits(rng.u32(0x38000..0x47000) << 12 | 0x1000)),
        11..=13 => T::from_low_bits(rng.u32(..)),
        14 => of_f32(f32::from_bits(rng.u32(0x0080_0000..0x7f80_0000))),
        _ => of_f32(rng.f32() * 2.0),
    }
}

/// Returns `len` random values in (-1, 1).
pub fn ordinary<T: Sample>(rng: &mut Rng, len: usize) -> Vec<T> {
    (0..len).map(|_| T::round(rng.f32() * 2.0 - 1.0)).collect()
}

/// Returns the bits of a tensor, with one pattern for all NaNs.
pub fn bits<T: Sample>(values: &[T]) -> Vec<u32> {
    values.iter().map(|value| value.comparable()).collect()
}

/// Evaluates an expression with a type alias bound to the element type of a one-stream dtype. This is the tests' own
/// list of formats.
#[macro_export]
macro_rules! with_sample {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            lion_kernels::Dtype::F32 => {
                type $T = f32;
                $body
            }
            lion_kernels::Dtype::F16 => {
                type $T = half::f16;
                $body
            }
            lion_kernels::Dtype::BF16 => {
                type $T = half::bf16;
                $body
            }
            lion_kernels::Dtype::I16 => {
                type $T = i16;
                $body
            }
            lion_kernels::Dtype::I8 => {
                type $T = i8;
                $body
            }
            dtype => panic!("a {dtype} tensor has two streams"),
        }
    };
}

/// Returns the bits of a tensor of any format, stream after stream, with one pattern for all NaNs.
pub fn tensor_bits(tensor: TensorRef<'_>) -> Vec<u32> {
    let streams = (0..).map_while(|index| tensor.stream(index));
    let bits = |stream: TensorRef<'_>| with_sample!(stream.dtype(), T => bits(stream.as_slice::<T>().expect("its dtype")));
    streams.flat_map(bits).collect()
}

/// Returns the elements of a tensor of any format as f32, decoded by the reference.
pub fn widened(tensor: TensorRef<'_>) -> Vec<f32> {
    let stream = |index| tensor.stream(index).expect("it has two");
    match tensor.dtype() {
        Dtype::Split => {
            let (high, low) = (stream(0), stream(1));
            let halves =
                high.as_slice::<bf16>().expect("bf16").iter().zip(low.as_slice::<i16>().expect("i16"));
            halves.map(|(&high, &low)| reference::join(high, low)).collect()
        }
        Dtype::Q8 => {
            let (codes, scales) = (stream(0), stream(1));
            reference::q8_decode(codes.as_slice().expect("i8"), scales.as_slice().expect("f32"))
        }
        dtype => with_sample!(dtype, T => {
            tensor.as_slice::<T>().expect("its dtype").iter().map(|value| value.widen()).collect()
        }),
    }
}

/// Writes values of every class, or numbers in (-1, 1), to a tensor of any format. Two-stream formats receive only
/// numbers.
pub fn fill(rng: &mut Rng, tensor: &mut TensorMut<'_>, every_class: bool) {
    if tensor.dtype().streams().len() > 1 {
        let numbers = ordinary::<f32>(rng, tensor.len());
        return tensor.write_f32(0, &numbers).expect("all of it");
    }
    with_sample!(tensor.dtype(), T => {
        let elements = tensor.as_slice_mut::<T>().expect("its dtype");
        let made: Vec<T> =
            if every_class { values(rng, elements.len()) } else { ordinary(rng, elements.len()) };
        elements.copy_from_slice(&made);
    });
}
