//! IEEE binary16: the conversions are instructions of the set.

use half::f16;

use super::Storage;
use crate::isa::Isa;

impl Storage for f16 {
    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, from: *const Self) -> I::F32 {
        // SAFETY: the caller's LANES readable elements are LANES raw 16-bit values.
        isa.half_to_f32(unsafe { isa.load(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(isa: I, to: *mut Self, value: I::F32) {
        // SAFETY: the caller's LANES writable elements are LANES raw 16-bit values.
        unsafe { isa.store(to.cast(), isa.f32_to_half(value)) }
    }

    #[inline(always)]
    fn rounded<I: Isa>(isa: I, value: I::F32) -> I::F32 {
        isa.half_to_f32(isa.f32_to_half(value))
    }
}
