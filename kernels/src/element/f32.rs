//! f32: what the lanes are.

use super::{Pair, Storage};
use crate::isa::Isa;
use crate::sweep::{Place, both};

impl Storage for f32 {
    #[inline(always)]
    unsafe fn load<I: Isa, const WHOLE: bool>(place: Place<I, WHOLE>, from: *const Self, _: bool) -> Pair<I> {
        // SAFETY: the caller's elements are two vectors.
        both!(i => unsafe { place.read::<I::F32>(from.cast(), i) })
    }

    #[inline(always)]
    unsafe fn store<I: Isa, const WHOLE: bool>(
        place: Place<I, WHOLE>,
        to: *mut Self,
        _: bool,
        value: Pair<I>,
    ) {
        // SAFETY: the caller's elements are two vectors.
        both!(i => unsafe { place.write::<I::F32>(to.cast(), i, value[i]) });
    }

    #[inline(always)]
    fn rounded<I: Isa>(_: I, value: Pair<I>) -> Pair<I> {
        value
    }
}
