//! IEEE binary16 storage.
//!
//! Every instruction set except the scalar one has conversion instructions. The compiler does not choose them for a
//! plain loop, so both loops call [`Isa`](crate::isa::Isa).

use half::f16;

use super::{Dtype, Element, Format, sealed};
use crate::isa::Isa;

impl sealed::Sealed for f16 {}
impl Element for f16 {
    const DTYPE: Dtype = Dtype::F16;
}

impl Format for f16 {
    #[inline(always)]
    fn decode<I: Isa>(isa: I, first: &[f16], _: &[()], to: &mut [f32]) {
        isa.halves_to_f32(first, to);
    }

    #[inline(always)]
    fn encode<I: Isa>(isa: I, from: &[f32], first: &mut [f16], _: &mut [()]) {
        isa.f32_to_halves(from, first);
    }
}
