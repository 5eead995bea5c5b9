//! The exact split: an f32 as a bfloat16 `high`, the nearest with ties away from zero, and a 16-bit integer `low`, the
//! rest. A parameter that the caller holds in 16 bits, and whose other 16 bits are state, has all the bits of an f32 one.
//!
//! ```text
//! split:  high = (bits(p) + 0x8000) >> 16,  low = the low 16 bits of bits(p);  a NaN is 0x7fc00000
//! join:   bits = (high << 16) + low
//! ```
//!
//! The sum that rounds `high` up is where `low`, as a signed number, is negative: so adding it undoes the rounding. A
//! `high` that somebody has changed moves the value by as much.

use half::bf16;

use super::Format;
use crate::isa::Isa;

/// The bits of a NaN, whose low half is zero: `high` alone is a NaN too.
pub(crate) const NAN: u32 = 0x7fc0_0000;
/// Half of the last place of `high`.
pub(crate) const HALF: u32 = 0x8000;

/// A tensor of bfloat16 and i16.
pub(crate) struct Split;

impl Format for Split {
    #[inline(always)]
    fn decode<I: Isa>(_: I, first: &[bf16], second: &[i16], to: &mut [f32]) {
        for ((to, high), &low) in to.iter_mut().zip(first).zip(second) {
            let high = u32::from(high.to_bits()) << 16;
            *to = f32::from_bits(high.wrapping_add_signed(i32::from(low)));
        }
    }

    #[inline(always)]
    fn encode<I: Isa>(_: I, from: &[f32], first: &mut [bf16], second: &mut [i16]) {
        for ((&from, high), low) in from.iter().zip(first).zip(second) {
            let bits = if from.is_nan() { NAN } else { from.to_bits() };
            *high = bf16::from_bits((bits.wrapping_add(HALF) >> 16) as u16);
            *low = bits as i16;
        }
    }
}
