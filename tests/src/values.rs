//! Random values of every class, and comparison by bits.

use half::{bf16, f16};
use lion_kernels::reference::{self, Float};
use lion_kernels::{Dtype, Element, TensorMut, TensorRef};

use crate::Rng;

/// A format as the tests see it: made from any bits, and compared by bits.
pub trait Sample: Element + Float + PartialEq {
    /// The element of these bits, the low ones of a 32-bit number.
    fn from_low_bits(bits: u32) -> Self;
    /// The bits.
    fn low_bits(self) -> u32;
    /// The bits, with every NaN the same: its payload and sign are nobody's promise.
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

/// `len` values of every class, in random order: zeros of both signs, subnormals, ordinary numbers near one another,
/// numbers of every exponent, the largest ones, infinities, NaNs, any bits, and values halfway between two numbers of
/// a 16-bit format.
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
        // Some of them an infinity, if the payload is cut off.
        4 => T::round(f32::from_bits(0x7f80_0000 | 1 << rng.u32(..23))),
        5 => of_f32(f32::MAX),
        6 => of_f32(65504.0 + 16.0 * rng.u32(0..4) as f32),
        7 => of_f32(2.0_f32.powi(-14) - 2.0_f32.powi(-26) * rng.u32(0..9) as f32),
        8 => of_f32(1.0),
        // Halfway between two bfloat16 numbers, or two halves.
        9 => of_f32(f32::from_bits(rng.u32(0x3000..0x4800) << 16 | 0x8000)),
        10 => of_f32(f32::from_bits(rng.u32(0x38000..0x47000) << 12 | 0x1000)),
        11..=13 => T::from_low_bits(rng.u32(..)),
        14 => of_f32(f32::from_bits(rng.u32(0x0080_0000..0x7f80_0000))),
        _ => of_f32(rng.f32() * 2.0),
    }
}

/// `len` values in (-1, 1), in random order.
pub fn ordinary<T: Sample>(rng: &mut Rng, len: usize) -> Vec<T> {
    (0..len).map(|_| T::round(rng.f32() * 2.0 - 1.0)).collect()
}

/// The bits of a tensor, with every NaN the same.
pub fn bits<T: Sample>(values: &[T]) -> Vec<u32> {
    values.iter().map(|value| value.comparable()).collect()
}

/// Evaluates an expression with a type alias bound to the element type of a dtype of one stream: the tests' own list of
/// formats.
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

/// The bits of a tensor of any format, stream after stream, with every NaN the same.
pub fn tensor_bits(tensor: TensorRef<'_>) -> Vec<u32> {
    let streams = (0..).map_while(|index| tensor.stream(index));
    let bits = |stream: TensorRef<'_>| with_sample!(stream.dtype(), T => bits(stream.as_slice::<T>().expect("its dtype")));
    streams.flat_map(bits).collect()
}

/// The elements of a tensor of any format as f32, widened by the reference.
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

/// Writes values of every class, or numbers in (-1, 1), to a tensor of any format. Those of a format of two streams are
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
