//! IEEE binary16: the conversions are instructions of the set.

use half::f16;

use super::{Pair, Storage};
use crate::isa::Isa;
use crate::sweep::{Place, both};

impl Storage for f16 {
    #[inline(always)]
    unsafe fn load<I: Isa, const WHOLE: bool>(place: Place<I, WHOLE>, from: *const Self, _: bool) -> Pair<I> {
        // SAFETY: the caller's elements are two vectors of raw 16-bit values.
        both!(i => place.isa.half_to_f32(unsafe { place.read::<I::Half>(from.cast(), i) }))
    }

    #[inline(always)]
    unsafe fn store<I: Isa, const WHOLE: bool>(
        place: Place<I, WHOLE>,
        to: *mut Self,
        _: bool,
        value: Pair<I>,
    ) {
        // SAFETY: the caller's elements are two vectors of raw 16-bit values.
        both!(i => unsafe { place.write::<I::Half>(to.cast(), i, place.isa.f32_to_half(value[i])) });
    }

    #[inline(always)]
    fn rounded<I: Isa>(isa: I, value: Pair<I>) -> Pair<I> {
        both!(i => isa.half_to_f32(isa.f32_to_half(value[i])))
    }
}
