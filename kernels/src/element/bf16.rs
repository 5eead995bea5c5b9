//! bfloat16: the upper half of an f32.
//!
//! Rounding is integer arithmetic, because the conversion instruction of AVX-512 BF16 flushes subnormals. Two
//! neighbours in memory are one 32-bit lane, so a pair of vectors splits into even and odd elements with a shift
//! and a mask, where widening in the order of the elements would cost a shuffle besides.

use half::bf16;

use super::{Pair, Storage};
use crate::isa::Isa;
use crate::sweep::{Place, both};

const UPPER: u32 = 0xffff_0000;

/// The rounded bfloat16s in the upper 16 bits of each lane; the lower ones are not defined.
///
/// Adding just under half of the last kept place, and one more where that place is odd, carries exactly when
/// rounding to nearest even goes up: into the exponent where the significand is full, into infinity from the
/// largest number. A NaN could carry into an infinity or a zero; it gets its quiet bit instead, in a branch, because
/// most tensors have none.
#[inline(always)]
fn round<I: Isa>(isa: I, value: Pair<I>) -> [I::U32; 2] {
    let bits = both!(i => isa.to_bits(value[i]));
    let odd = both!(i => isa.and(isa.shr16(bits[i]), isa.splat_u32(1)));
    let rounded = both!(i => isa.add_u32(isa.add_u32(bits[i], isa.splat_u32(0x7fff)), odd[i]));
    if !isa.any_nan(value[0], value[1]) {
        return rounded;
    }
    let quiet = both!(i => isa.or(bits[i], isa.splat_u32(0x0040_0000)));
    both!(i => isa.select(isa.is_nan(value[i]), quiet[i], rounded[i]))
}

impl Storage for bf16 {
    const SPLITS: bool = true;

    #[inline(always)]
    unsafe fn load<I: Isa, const WHOLE: bool>(
        place: Place<I, WHOLE>,
        from: *const Self,
        split: bool,
    ) -> Pair<I> {
        let isa = place.isa;
        if !split {
            // SAFETY: the caller's elements are two vectors of raw 16-bit values.
            return both!(i => isa.of_bits(isa.shl16(isa.widen(unsafe { place.read(from.cast(), i) }))));
        }
        // SAFETY: the caller's elements are one vector of 32-bit lanes.
        let neighbours: I::U32 = unsafe { place.read(from.cast(), 0) };
        let (even, odd) = (isa.shl16(neighbours), isa.and(neighbours, isa.splat_u32(UPPER)));
        [isa.of_bits(even), isa.of_bits(odd)]
    }

    #[inline(always)]
    unsafe fn store<I: Isa, const WHOLE: bool>(
        place: Place<I, WHOLE>,
        to: *mut Self,
        split: bool,
        value: Pair<I>,
    ) {
        let isa = place.isa;
        let [first, second] = round(isa, value);
        if split {
            let neighbours = isa.or(isa.shr16(first), isa.and(second, isa.splat_u32(UPPER)));
            // SAFETY: the caller's elements are one vector of 32-bit lanes.
            unsafe { place.write(to.cast(), 0, neighbours) };
        } else {
            // SAFETY: by this function's contract.
            unsafe { Self::store_rounded(place, to, [isa.of_bits(first), isa.of_bits(second)]) };
        }
    }

    #[inline(always)]
    unsafe fn store_rounded<I: Isa, const WHOLE: bool>(
        place: Place<I, WHOLE>,
        to: *mut Self,
        value: Pair<I>,
    ) {
        let isa = place.isa;
        let halves = both!(i => isa.narrow(isa.shr16(isa.to_bits(value[i]))));
        // SAFETY: the caller's elements are two vectors of raw 16-bit values.
        unsafe { both!(i => place.write(to.cast(), i, halves[i])) };
    }

    #[inline(always)]
    fn rounded<I: Isa>(isa: I, value: Pair<I>) -> Pair<I> {
        let rounded = round(isa, value);
        both!(i => isa.of_bits(isa.and(rounded[i], isa.splat_u32(UPPER))))
    }
}
