//! The scalar backend: plain Rust on four lanes, for every processor.

use half::f16;

use super::{Isa, Kernel, primitives};

/// The token of the scalar backend, which requires no processor features.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

/// Evaluates an expression for each lane: `lanes!(a, b => a + b)`. This is a macro, because the compiler need not
/// inline a closure.
macro_rules! lanes {
    ($($vector:ident),+ => $value:expr) => {
        [lanes!(@ 0 $($vector)+, $value), lanes!(@ 1 $($vector)+, $value),
         lanes!(@ 2 $($vector)+, $value), lanes!(@ 3 $($vector)+, $value)]
    };
    (@ $lane:literal $($vector:ident)+, $value:expr) => {{
        $(let $vector = $vector[$lane];)+
        $value
    }};
}

impl Isa for Scalar {
    const LANES: usize = 4;
    const FUSED: bool = false;

    type F32 = [f32; 4];
    type U32 = [u32; 4];
    type U16 = [u16; 4];
    type F64 = [f64; 2];
    type Mask = [bool; 4];

    #[inline(always)]
    unsafe fn new_unchecked() -> Self {
        Scalar
    }

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        fn enter<K: Kernel>(isa: Scalar, kernel: K) -> K::Output {
            kernel.call(isa)
        }
        enter(self, kernel)
    }

    #[inline(always)]
    fn halves_to_f32(self, from: &[f16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = half_to_f32(from.to_bits());
        }
    }

    #[inline(always)]
    fn f32_to_halves(self, from: &[f32], to: &mut [f16]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = f16::from_bits(f32_to_half(from));
        }
    }

    primitives! {
        splat(value: f32) -> [f32; 4] = [value; 4];
        add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = lanes!(a, b => a + b);
        sub(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = lanes!(a, b => a - b);
        mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = lanes!(a, b => a * b);
        div(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = lanes!(a, b => a / b);
        less(a: [f32; 4], b: [f32; 4]) -> [bool; 4] = lanes!(a, b => a < b);
        is_nan(a: [f32; 4]) -> [bool; 4] = lanes!(a => f32::is_nan(a));
        any_nan(a: [f32; 4], b: [f32; 4]) -> bool = a.iter().chain(&b).any(|value| value.is_nan());
        sub_signed(value: [f32; 4], magnitude: [f32; 4], direction: [f32; 4]) -> [f32; 4] = lanes!(
            value, magnitude, direction => {
                let moving = magnitude.copysign(direction);
                let still = if direction == 0.0 { 0.0 } else { moving };
                value - if direction.is_nan() { direction } else { still }
            });

        to_bits(a: [f32; 4]) -> [u32; 4] = lanes!(a => f32::to_bits(a));
        from_bits(a: [u32; 4]) -> [f32; 4] = lanes!(a => f32::from_bits(a));

        splat_u32(value: u32) -> [u32; 4] = [value; 4];
        add_u32(a: [u32; 4], b: [u32; 4]) -> [u32; 4] = lanes!(a, b => a.wrapping_add(b));
        mul_u32(a: [u32; 4], b: [u32; 4]) -> [u32; 4] = lanes!(a, b => a.wrapping_mul(b));
        and(a: [u32; 4], b: [u32; 4]) -> [u32; 4] = lanes!(a, b => a & b);
        or(a: [u32; 4], b: [u32; 4]) -> [u32; 4] = lanes!(a, b => a | b);
        xor(a: [u32; 4], b: [u32; 4]) -> [u32; 4] = lanes!(a, b => a ^ b);
        shl16(a: [u32; 4]) -> [u32; 4] = lanes!(a => a << 16);
        shr16(a: [u32; 4]) -> [u32; 4] = lanes!(a => a >> 16);
        shl2(a: [u32; 4]) -> [u32; 4] = lanes!(a => a << 2);
        sar2(a: [u32; 4]) -> [u32; 4] = lanes!(a => (a as i32 >> 2) as u32);
        shr15(a: [u32; 4]) -> [u32; 4] = lanes!(a => a >> 15);
        sar16(a: [u32; 4]) -> [u32; 4] = lanes!(a => (a as i32 >> 16) as u32);
        max_u32(a: [u32; 4], b: [u32; 4]) -> [u32; 4] = lanes!(a, b => a.max(b));
        largest_lanes(of: [[u32; 4]; 4]) -> [u32; 4] = lanes!(of => of.into_iter().fold(0, u32::max));
        saturating_sub_halves(a: [u32; 4], b: [u32; 4]) -> [u32; 4] = lanes!(a, b => {
            let upper = (a >> 16).saturating_sub(b >> 16);
            upper << 16 | (a & 0xffff).saturating_sub(b & 0xffff)
        });
        less_u31(a: [u32; 4], b: [u32; 4]) -> [bool; 4] = lanes!(a, b => a < b);
        select(mask: [bool; 4], yes: [u32; 4], no: [u32; 4]) -> [u32; 4] =
            lanes!(mask, yes, no => if mask { yes } else { no });

        widen(a: [u16; 4]) -> [u32; 4] = lanes!(a => u32::from(a));
        narrow(a: [u32; 4]) -> [u16; 4] = lanes!(a => a as u16);
        scaled_bytes(bytes: [u16; 4], factor: f32, split: bool) -> [[f32; 4]; 2] = {
            let [[a, b], [c, d], [e, f], [g, h]] = bytes.map(u16::to_ne_bytes);
            let vectors = if split { [[a, c, e, g], [b, d, f, h]] } else { [[a, b, c, d], [e, f, g, h]] };
            vectors.map(|bytes| lanes!(bytes => f32::from(bytes as i8) * factor))
        };
        round_to_bytes(values: [[f32; 4]; 4], split: bool) -> [u32; 4] = {
            let [a, b, c, d] = values.map(|lanes| lanes.map(|value| (value + LAST_PLACE_IS_ONE).to_bits() as u8));
            let alternate = |[a, b, c, d]: [u8; 4], [e, f, g, h]: [u8; 4]| [[a, e, b, f], [c, g, d, h]];
            let [[a, b], [c, d]] = if split { [alternate(a, b), alternate(c, d)] } else { [[a, b], [c, d]] };
            [a, b, c, d].map(u32::from_ne_bytes)
        };
        half_to_f32(a: [u16; 4]) -> [f32; 4] = lanes!(a => half_to_f32(a));
        f32_to_half(a: [f32; 4]) -> [u16; 4] = lanes!(a => f32_to_half(a));

        zero_f64() -> [f64; 2] = [0.0; 2];
        to_f64(a: [f32; 4]) -> [[f64; 2]; 2] = [[a[0].into(), a[1].into()], [a[2].into(), a[3].into()]];
        add_square(sum: [f64; 2], a: [f64; 2]) -> [f64; 2] = [sum[0] + a[0] * a[0], sum[1] + a[1] * a[1]];
    }
}

/// 1.5 * 2^23: a sum with a small number rounds to an integer, which is in its low bits.
const LAST_PLACE_IS_ONE: f32 = 12_582_912.0;
const SIGN: u32 = 0x8000_0000;
const INFINITY: u32 = 0x7f80_0000;

/// Converts binary16 to f32 without branches. The exponent and the significand move to their positions in an f32, which
/// is then 2^112 times too small. One exact multiplication corrects that, for subnormals too. Infinity and NaN become
/// 2^16 or more, beyond every finite half, and get the highest exponent of f32.
#[inline(always)]
fn half_to_f32(half: u16) -> f32 {
    let bits = u32::from(half);
    let scaled = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let special = if scaled >= 65536.0 { INFINITY } else { 0 };
    f32::from_bits(scaled.to_bits() | special | (bits & 0x8000) << 16)
}

/// Converts f32 to binary16. An integer addition that carries into the exponent rounds normal results. Adding 0.5
/// rounds subnormal results: the last place of 0.5 is that of a subnormal half, so the float addition itself rounds.
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
