//! f32: what the lanes are.

use super::Storage;
use crate::isa::Isa;

impl Storage for f32 {
    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, from: *const Self) -> I::F32 {
        // SAFETY: the caller's LANES readable elements are one vector.
        unsafe { isa.load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store<I: Isa>(isa: I, to: *mut Self, value: I::F32) {
        // SAFETY: the caller's LANES writable elements are one vector.
        unsafe { isa.store(to.cast(), value) }
    }

    #[inline(always)]
    fn rounded<I: Isa>(_: I, value: I::F32) -> I::F32 {
        value
    }
}
