//! Split storage: an f32 as its nearest bfloat16, `high`, and a 16-bit integer remainder, `low`. Ties round away from
//! zero.
//!
//! The caller holds a bf16 parameter, the optimizer's state holds the remainder. Together they are exactly an f32.
//!
//! ```text
//! split:  high = (bits(p) + 0x8000) >> 16,  low = the low 16 bits of bits(p);  a NaN is 0x7fc00000
//! join:   bits = (high << 16) + low
//! ```
//!
//! `high` rounds up exactly if `low`, read as a signed number, is negative. So adding `low` undoes the rounding. If the
//! caller changes `high`, the value moves by the same amount.

use half::bf16;

use super::Format;
use crate::isa::Isa;

/// The bits of the stored NaN. Its low half is zero, so `high` alone is a NaN too.
pub(crate) const NAN: u32 = 0x7fc0_0000;
/// Half of the last place of `high`.
pub(crate) const HALF: u32 = 0x8000;

/// A tensor of a bf16 stream and an i16 stream.
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
