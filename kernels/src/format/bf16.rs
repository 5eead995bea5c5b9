//! bfloat16 storage: the upper half of an f32.
//!
//! Rounding uses integer arithmetic here. The fused kernels use the instruction of a backend that has one
//! ([`Isa::round_to_bf16`]).

use half::bf16;

use super::{Dtype, Element, Format, sealed};
use crate::isa::Isa;

impl sealed::Sealed for bf16 {}
impl Element for bf16 {
    const DTYPE: Dtype = Dtype::BF16;
}

/// Rounds to nearest even. It adds just under half of the last kept place, plus one if that place is odd. The sum
/// carries exactly if the value rounds up: into the exponent if the significand is full, and from the largest number
/// into infinity. A NaN could carry into an infinity or a zero, so its quiet bit is set instead.
#[inline(always)]
fn round(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff).wrapping_add((bits >> 16) & 1);
    let quiet = bits | 0x0040_0000;
    bf16::from_bits(((if value.is_nan() { quiet } else { rounded }) >> 16) as u16)
}

impl Format for bf16 {
    #[inline(always)]
    fn decode<I: Isa>(_: I, first: &[bf16], _: &[()], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(first) {
            *to = f32::from_bits(u32::from(from.to_bits()) << 16);
        }
    }

    #[inline(always)]
    fn encode<I: Isa>(_: I, from: &[f32], first: &mut [bf16], _: &mut [()]) {
        for (to, &from) in first.iter_mut().zip(from) {
            *to = round(from);
        }
    }
}
