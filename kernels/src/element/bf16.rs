//! bfloat16: the upper half of an f32.
//!
//! Rounding is integer arithmetic, because the conversion instruction of AVX-512 BF16 flushes subnormals. Two
//! neighbours in memory are one 32-bit lane, so a pair of vectors splits into even and odd elements with a shift
//! and a mask, where widening in the order of the elements would cost a shuffle besides.

use half::bf16;

use super::{Pair, Storage};
use crate::isa::Isa;

const UPPER: u32 = 0xffff_0000;

/// The rounded bfloat16 in the upper 16 bits of each lane; the lower ones are not defined.
///
/// Adding just under half of the last kept place, and one more where that place is odd, carries exactly when
/// rounding to nearest even goes up: into the exponent where the significand is full, into infinity from the
/// largest number. A NaN could carry into an infinity or a zero; it gets its quiet bit instead.
#[inline(always)]
fn round<I: Isa>(isa: I, value: I::F32) -> I::U32 {
    let bits = isa.bits(value);
    let odd = isa.and(isa.shr16(bits), isa.splat_u32(1));
    let rounded = isa.add_u32(isa.add_u32(bits, isa.splat_u32(0x7fff)), odd);
    let quiet = isa.or(bits, isa.splat_u32(0x0040_0000));
    isa.select(isa.is_nan(value), quiet, rounded)
}

impl Storage for bf16 {
    const SPLITS: bool = true;

    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, from: *const Self) -> I::F32 {
        // SAFETY: the caller's LANES readable elements are LANES raw 16-bit values.
        let half = unsafe { isa.load(from.cast()) };
        isa.from_bits(isa.shl16(isa.widen(half)))
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(isa: I, to: *mut Self, value: I::F32) {
        let half = isa.narrow(isa.shr16(round(isa, value)));
        // SAFETY: the caller's LANES writable elements are LANES raw 16-bit values.
        unsafe { isa.store(to.cast(), half) }
    }

    #[inline(always)]
    fn rounded<I: Isa>(isa: I, value: I::F32) -> I::F32 {
        isa.from_bits(isa.and(round(isa, value), isa.splat_u32(UPPER)))
    }

    #[inline(always)]
    unsafe fn load_split<I: Isa>(isa: I, from: *const Self) -> Pair<I> {
        // SAFETY: the caller's 2 * LANES readable elements of 16 bits are LANES lanes of 32.
        let both: I::U32 = unsafe { isa.load(from.cast()) };
        let even = isa.shl16(both);
        let odd = isa.and(both, isa.splat_u32(UPPER));
        [isa.from_bits(even), isa.from_bits(odd)]
    }

    #[inline(always)]
    unsafe fn store_split<I: Isa>(isa: I, to: *mut Self, [even, odd]: Pair<I>) {
        let even = isa.shr16(round(isa, even));
        let odd = isa.and(round(isa, odd), isa.splat_u32(UPPER));
        // SAFETY: the caller's 2 * LANES writable elements of 16 bits are LANES lanes of 32.
        unsafe { isa.store(to.cast(), isa.or(even, odd)) }
    }
}
