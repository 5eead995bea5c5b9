//! Integer storage, for the streams of two-stream formats. A step takes no integer tensors.
//!
//! Values round to the nearest integer, ties to even, and saturate at the ends of the range. A NaN becomes 0.

use super::{Dtype, Element, Format, sealed};
use crate::isa::Isa;

macro_rules! integers {
    ($($type:ident, $dtype:ident;)+) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;
        }

        impl Format for $type {
            #[inline(always)]
            fn decode<I: Isa>(_: I, first: &[$type], _: &[()], to: &mut [f32]) {
                for (to, &from) in to.iter_mut().zip(first) {
                    *to = f32::from(from);
                }
            }

            #[inline(always)]
            fn encode<I: Isa>(_: I, from: &[f32], first: &mut [$type], _: &mut [()]) {
                for (to, &from) in first.iter_mut().zip(from) {
                    *to = nearest_even(from) as $type;
                }
            }
        }
    )+};
}

integers! {
    i8, I8;
    i16, I16;
}

/// Returns the nearest integer as a float. Values of 2^23 and more are integers already. For smaller values, the sum
/// with 2^23 has a last place of 1, so the addition rounds to an integer.
#[inline(always)]
fn nearest_even(value: f32) -> f32 {
    const LAST_PLACE_IS_ONE: f32 = 8_388_608.0;
    let magnitude = value.abs();
    let rounded = magnitude + LAST_PLACE_IS_ONE - LAST_PLACE_IS_ONE;
    let nearest = if magnitude < LAST_PLACE_IS_ONE { rounded } else { magnitude };
    nearest.copysign(value)
}
