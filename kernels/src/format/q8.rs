//! 8-bit storage of momentum: one code per element and one f32 scale per block of [`BLOCK`] elements.
//!
//! ```text
//! encode  a = the largest finite |m| of the block, 0 if it is below 2^-126;   scale = a;   inv = 1 / a, 0 if a is 0
//!         y = |m| * inv;   w = float((bits(y) >> 2) + QUARTER);   code = w * 127 to nearest even, at most 127, with
//!         the sign of m;   a NaN or an infinity is -128
//! decode  0 is +0, -128 is NaN;   w = |code| * (1 / 127);   u = bits(w) - QUARTER, at least 0;   m = float(u << 2) *
//!         scale, with the sign of the code
//! ```
//!
//! The code is linear in an approximate fourth root. A float's bits divided by four approximate the bits of its fourth
//! root, up to the exponent's offset; [`QUARTER`], three quarters of the bits of 1, corrects the offset. So 127 codes
//! cover the range from the block's largest magnitude down to 4e-9 of it, without a logarithm, a root or a table. A
//! Lion step uses the sign of the momentum, also of small momenta; linear codes would round these to zero and lose the
//! sign. `encode(decode(code))` returns the same code.
//!
//! Almost all blocks hold only finite elements. The loops have a fast form for such blocks.

use super::Format;
use crate::isa::Isa;

/// The number of elements that share a scale.
pub(crate) const BLOCK: usize = 64;
const QUARTER: u32 = 0x2fa0_0000;
/// The root of code 1. That of another code is a multiple of it.
const ROOT_OF_ONE: f32 = 1.0 / 127.0;
const SIGN: u32 = 0x8000_0000;
const INFINITY: u32 = 0x7f80_0000;
const SMALLEST_NORMAL: u32 = 0x0080_0000;
/// The code of a NaN or an infinity.
const NOT_FINITE: i8 = -128;
/// 1.5 * 2^23. Its last place is 1, and stays 1 if a small number of either sign is added. So the sum rounds to an
/// integer, and its low bits hold that integer.
const LAST_PLACE_IS_ONE: f32 = 12_582_912.0;

/// A tensor of codes and scales.
pub(crate) struct Q8;

impl Format for Q8 {
    #[inline(always)]
    fn decode<I: Isa>(_: I, first: &[i8], second: &[f32], to: &mut [f32]) {
        let (blocks, rest) = first.as_chunks::<BLOCK>();
        let (to, to_rest) = to.as_chunks_mut::<BLOCK>();
        for ((to, codes), &scale) in to.iter_mut().zip(blocks).zip(second) {
            decode_block(codes, scale, to);
        }
        if let (Some(&scale), false) = (second.get(blocks.len()), rest.is_empty()) {
            decode_block(rest, scale, to_rest);
        }
    }

    #[inline(always)]
    fn encode<I: Isa>(_: I, from: &[f32], first: &mut [i8], second: &mut [f32]) {
        let (blocks, rest) = from.as_chunks::<BLOCK>();
        let (codes, codes_rest) = first.as_chunks_mut::<BLOCK>();
        for ((from, codes), scale) in blocks.iter().zip(codes).zip(&mut *second) {
            *scale = encode_block(from, codes);
        }
        if let (Some(scale), false) = (second.get_mut(blocks.len()), rest.is_empty()) {
            *scale = encode_block(rest, codes_rest);
        }
    }
}

/// Encodes a block and returns its scale.
#[inline(always)]
pub(crate) fn encode_block(from: &[f32], codes: &mut [i8]) -> f32 {
    // Signed, because every instruction set compares signed integers.
    let largest = from.iter().map(|value| (value.to_bits() & !SIGN) as i32).fold(0, i32::max) as u32;
    let all_are_finite = largest < INFINITY;
    let (scale, inverse) = scale_and_inverse(if all_are_finite { largest } else { largest_finite(from) });
    for (&value, code) in from.iter().zip(&mut *codes) {
        *code = encode(value, inverse);
    }
    if !all_are_finite {
        for (value, code) in from.iter().zip(codes) {
            *code = if value.is_finite() { *code } else { NOT_FINITE };
        }
    }
    scale
}

/// Returns the bits of the largest finite magnitude.
#[inline(always)]
pub(crate) fn largest_finite(values: &[f32]) -> u32 {
    let magnitude = |value: &f32| if value.is_finite() { (value.to_bits() & !SIGN) as i32 } else { 0 };
    values.iter().map(magnitude).fold(0, i32::max) as u32
}

/// Returns the scale of a block and its inverse, by the bits of its largest finite magnitude.
#[inline(always)]
pub(crate) fn scale_and_inverse(largest: u32) -> (f32, f32) {
    match largest {
        ..SMALLEST_NORMAL => (0.0, 0.0),
        bits => (f32::from_bits(bits), 1.0 / f32::from_bits(bits)),
    }
}

/// Returns the code of a finite number. Its share of the largest magnitude is at most 1, plus a rounding error that is
/// too small for a code above 127.
#[inline(always)]
fn encode(value: f32, inverse: f32) -> i8 {
    let share = f32::from_bits(value.to_bits() & !SIGN) * inverse;
    let root = f32::from_bits((share.to_bits() >> 2).wrapping_add(QUARTER));
    let most = f32::from_bits(127.0_f32.to_bits() | value.to_bits() & SIGN);
    (root * most + LAST_PLACE_IS_ONE).to_bits() as i8
}

#[inline(always)]
pub(crate) fn decode_block(codes: &[i8], scale: f32, to: &mut [f32]) {
    for (to, &code) in to.iter_mut().zip(codes) {
        *to = decode(code, scale);
    }
    if !all_are_finite(codes) {
        for (to, &code) in to.iter_mut().zip(codes) {
            *to = if code == NOT_FINITE { f32::NAN } else { *to };
        }
    }
}

/// Returns whether no code is that of a NaN or an infinity.
#[inline(always)]
pub(crate) fn all_are_finite(codes: &[i8]) -> bool {
    !codes.iter().fold(false, |any, &code| any | (code == NOT_FINITE))
}

/// Returns the value of a finite number's code.
#[inline(always)]
fn decode(code: i8, scale: f32) -> f32 {
    let root = f32::from(code) * ROOT_OF_ONE;
    let share = ((root.to_bits() & !SIGN) as i32 - QUARTER as i32).max(0) << 2;
    let magnitude = f32::from_bits(share as u32) * scale;
    f32::from_bits(magnitude.to_bits() | root.to_bits() & SIGN)
}

/// Returns the values of `2 * LANES` codes, [`decode`] in vectors. `finite` says that [`all_are_finite`]. If `split` is
/// set, the first vector has the even elements and the second the odd ones.
#[inline(always)]
pub(crate) fn decode_lanes<I: Isa>(
    isa: I,
    codes: I::U16,
    scale: I::F32,
    split: bool,
    finite: bool,
) -> [I::F32; 2] {
    let [first, second] = isa.scaled_bytes(codes, ROOT_OF_ONE, split);
    [decode_root(isa, first, scale, finite), decode_root(isa, second, scale, finite)]
}

#[inline(always)]
fn decode_root<I: Isa>(isa: I, root: I::F32, scale: I::F32, finite: bool) -> I::F32 {
    let bits = isa.to_bits(root);
    // The shift drops the sign. The difference is that of the upper halves, because `QUARTER` has no lower half.
    let share = isa.saturating_sub_halves(isa.shl2(bits), isa.splat_u32(QUARTER << 2));
    let magnitude = isa.to_bits(isa.mul(isa.from_bits(share), scale));
    let value = isa.or(magnitude, isa.and(bits, isa.splat_u32(SIGN)));
    if finite {
        return isa.from_bits(value);
    }
    // Only the root of `NOT_FINITE` is below -1.
    isa.from_bits(isa.select(isa.less(root, isa.splat(-1.0)), isa.to_bits(isa.splat(f32::NAN)), value))
}

/// Returns the bits of magnitudes.
#[inline(always)]
pub(crate) fn magnitudes<I: Isa>(isa: I, values: I::F32) -> I::U32 {
    isa.and(isa.to_bits(values), isa.splat_u32(!SIGN))
}

/// Returns the scales of blocks and their inverses by the bits of their largest magnitudes: [`scale_and_inverse`] in
/// vectors. Also returns whether all magnitudes are finite.
#[inline(always)]
pub(crate) fn scales_and_inverses<I: Isa>(isa: I, largest: I::U32) -> ([I::F32; 2], bool) {
    let small = isa.less_u31(largest, isa.splat_u32(SMALLEST_NORMAL));
    let scale = isa.from_bits(isa.select(small, isa.splat_u32(0), largest));
    let inverse = isa.div(isa.splat(1.0), isa.from_bits(largest));
    let inverse = isa.from_bits(isa.select(small, isa.splat_u32(0), isa.to_bits(inverse)));
    // The product is NaN if the magnitude is not finite.
    let product = isa.mul(scale, inverse);
    ([scale, inverse], !isa.any_nan(product, product))
}

/// Returns values that round to the codes: [`encode`] in vectors. `finite` says that all values are finite.
///
/// The arithmetic shift copies the sign to the three highest bits. That adds -2^29 to the bits of a negative value's
/// root, which is 2^64 times too small then. Two of the copies make a factor of -127 * 2^64, and of 127 otherwise.
#[inline(always)]
pub(crate) fn encode_lanes<I: Isa>(isa: I, values: I::F32, inverse: I::F32, finite: bool) -> I::F32 {
    const POSITIVE: u32 = 127.0_f32.to_bits();
    const NEGATIVE: u32 = POSITIVE + SIGN + (64 << 23);
    let quarter = isa.sar2(isa.to_bits(isa.mul(values, inverse)));
    let root = isa.from_bits(isa.add_u32(quarter, isa.splat_u32(QUARTER)));
    let factor = isa.or(isa.and(quarter, isa.splat_u32(NEGATIVE ^ POSITIVE)), isa.splat_u32(POSITIVE));
    let code = isa.mul(root, isa.from_bits(factor));
    if finite {
        return code;
    }
    let not_finite = isa.is_nan(isa.sub(values, values));
    isa.from_bits(isa.select(not_finite, isa.to_bits(isa.splat(NOT_FINITE.into())), isa.to_bits(code)))
}
