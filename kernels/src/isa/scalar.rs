//! Plain Rust on four lanes: the backend that every machine has.

use super::{Isa, Kernel};

/// Needs nothing of the processor.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn map<A: Copy, R>(a: [A; 4], f: impl Fn(A) -> R) -> [R; 4] {
    [f(a[0]), f(a[1]), f(a[2]), f(a[3])]
}

#[inline(always)]
fn zip<A: Copy, B: Copy, R, const N: usize>(a: [A; N], b: [B; N], f: impl Fn(A, B) -> R) -> [R; N] {
    core::array::from_fn(
        #[inline(always)]
        |lane| f(a[lane], b[lane]),
    )
}

impl Isa for Scalar {
    const LANES: usize = 4;

    type F32 = [f32; 4];
    type U32 = [u32; 4];
    type Half = [u16; 4];
    type F64 = [f64; 2];
    type Mask = [bool; 4];

    #[inline(always)]
    unsafe fn assume() -> Self {
        Scalar
    }

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        fn enter<K: Kernel>(isa: Scalar, kernel: K) -> K::Output {
            kernel.call(isa)
        }
        enter(self, kernel)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        [value; 4]
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn less(self, a: Self::F32, b: Self::F32) -> Self::Mask {
        zip(a, b, |a, b| a < b)
    }
    #[inline(always)]
    fn is_nan(self, a: Self::F32) -> Self::Mask {
        map(a, f32::is_nan)
    }
    #[inline(always)]
    fn minus_signed(self, value: Self::F32, magnitude: Self::F32, direction: Self::F32) -> Self::F32 {
        let change = zip(magnitude, direction, |magnitude, direction| {
            let moving = magnitude.copysign(direction);
            let still = if direction == 0.0 { 0.0 } else { moving };
            if direction.is_nan() { direction } else { still }
        });
        self.sub(value, change)
    }

    #[inline(always)]
    fn bits(self, a: Self::F32) -> Self::U32 {
        map(a, f32::to_bits)
    }
    #[inline(always)]
    fn from_bits(self, a: Self::U32) -> Self::F32 {
        map(a, f32::from_bits)
    }

    #[inline(always)]
    fn splat_u32(self, value: u32) -> Self::U32 {
        [value; 4]
    }
    #[inline(always)]
    fn add_u32(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        zip(a, b, u32::wrapping_add)
    }
    #[inline(always)]
    fn and(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn or(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        zip(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn xor(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        zip(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn shl16(self, a: Self::U32) -> Self::U32 {
        map(a, |a| a << 16)
    }
    #[inline(always)]
    fn shr16(self, a: Self::U32) -> Self::U32 {
        map(a, |a| a >> 16)
    }
    #[inline(always)]
    fn max_u32(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        zip(a, b, u32::max)
    }
    #[inline(always)]
    fn less_u31(self, a: Self::U32, b: Self::U32) -> Self::Mask {
        zip(a, b, |a, b| a < b)
    }
    #[inline(always)]
    fn select(self, mask: Self::Mask, yes: Self::U32, no: Self::U32) -> Self::U32 {
        let pick = |lane: usize| if mask[lane] { yes[lane] } else { no[lane] };
        [pick(0), pick(1), pick(2), pick(3)]
    }

    #[inline(always)]
    fn widen(self, a: Self::Half) -> Self::U32 {
        map(a, u32::from)
    }
    #[inline(always)]
    fn narrow(self, a: Self::U32) -> Self::Half {
        map(a, |a| a as u16)
    }
    #[inline(always)]
    fn half_to_f32(self, a: Self::Half) -> Self::F32 {
        map(a, half_to_f32)
    }
    #[inline(always)]
    fn f32_to_half(self, a: Self::F32) -> Self::Half {
        map(a, f32_to_half)
    }

    #[inline(always)]
    fn zero_f64(self) -> Self::F64 {
        [0.0; 2]
    }
    #[inline(always)]
    fn to_f64(self, a: Self::F32) -> [Self::F64; 2] {
        [[a[0].into(), a[1].into()], [a[2].into(), a[3].into()]]
    }
    #[inline(always)]
    fn add_f64(self, a: Self::F64, b: Self::F64) -> Self::F64 {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn mul_f64(self, a: Self::F64, b: Self::F64) -> Self::F64 {
        zip(a, b, |a, b| a * b)
    }
}

const SIGN: u32 = 0x8000_0000;
const INFINITY: u32 = 0x7f80_0000;

/// Binary16 to f32 without branches: the exponent and the significand move to their places in an f32 that is
/// 2^112 times too small, and one exact multiplication repairs that, for subnormals too. Infinity and NaN come
/// out as 2^16 or more, which no finite half reaches: they get the f32's highest exponent.
#[inline(always)]
fn half_to_f32(half: u16) -> f32 {
    let bits = u32::from(half);
    let scaled = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let special = if scaled >= 65536.0 { INFINITY } else { 0 };
    f32::from_bits(scaled.to_bits() | special | (bits & 0x8000) << 16)
}

/// f32 to binary16. Normal results are rounded by an integer addition that carries into the exponent; subnormal
/// ones by adding 0.5, whose last place is that of a subnormal half, so that the addition itself rounds.
#[inline(always)]
fn f32_to_half(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = bits & !SIGN;
    let odd = (magnitude >> 13) & 1;
    let normal = magnitude.wrapping_add(0xfff + odd).wrapping_sub(112 << 23) >> 13;
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
    let finite = if magnitude < 113 << 23 { subnormal } else { normal };
    let bounded = if magnitude < 143 << 23 { finite.min(0x7c00) } else { 0x7c00 };
    let result = if magnitude > INFINITY { 0x7e00 } else { bounded };
    (result | (bits & SIGN) >> 16) as u16
}
