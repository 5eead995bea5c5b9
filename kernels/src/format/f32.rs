//! f32 storage: elements load and store unchanged. The engine works on f32 tensors in place and uses these loops only
//! for conversions.

use super::{Dtype, Element, Format, sealed};
use crate::isa::Isa;

impl sealed::Sealed for f32 {}
impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
}

impl Format for f32 {
    #[inline(always)]
    fn decode<I: Isa>(_: I, first: &[f32], _: &[()], to: &mut [f32]) {
        for (to, &from) in to.iter_mut().zip(first) {
            *to = from;
        }
    }

    #[inline(always)]
    fn encode<I: Isa>(_: I, from: &[f32], first: &mut [f32], _: &mut [()]) {
        for (to, &from) in first.iter_mut().zip(from) {
            *to = from;
        }
    }
}
