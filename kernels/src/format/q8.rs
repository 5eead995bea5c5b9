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
    let magnitude = |value: &f32| (value.to_bits() & !SIGN) as i32;
    let finite = |value: &f32| if value.is_finite() { magnitude(value) } else { 0 };
    let of_all = from.iter().map(magnitude).fold(0, i32::max);
    let all_are_finite = of_all < INFINITY as i32;
    let largest = match all_are_finite {
        true => of_all,
        false => from.iter().map(finite).fold(0, i32::max),
    };
    let (scale, inverse) = match largest as u32 {
        ..SMALLEST_NORMAL => (0.0, 0.0),
        bits => (f32::from_bits(bits), 1.0 / f32::from_bits(bits)),
    };
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
    let some_are_not_finite = codes.iter().fold(false, |any, &code| any | (code == NOT_FINITE));
    if some_are_not_finite {
        for (to, &code) in to.iter_mut().zip(codes) {
            *to = if code == NOT_FINITE { f32::NAN } else { *to };
        }
    }
}

/// Returns the value of a finite number's code.
#[inline(always)]
fn decode(code: i8, scale: f32) -> f32 {
    let root = f32::from(code) * (1.0 / 127.0);
    let share = ((root.to_bits() & !SIGN) as i32 - QUARTER as i32).max(0) << 2;
    let magnitude = f32::from_bits(share as u32) * scale;
    f32::from_bits(magnitude.to_bits() | root.to_bits() & SIGN)
}
