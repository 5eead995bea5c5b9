//! Two formats for the engine's tests: one with two streams, one with blocks. They also show how to add a format: a
//! file and a row of the table. The engine, the checks and the byte counts need no change.

use super::Format;
use crate::isa::Isa;

/// The upper and the lower half of an f32, as two streams.
pub(crate) struct Halves;

impl Format for Halves {
    #[inline(always)]
    fn decode<I: Isa>(_: I, first: &[i16], second: &[i16], to: &mut [f32]) {
        for ((to, &high), &low) in to.iter_mut().zip(first).zip(second) {
            *to = f32::from_bits(u32::from(high as u16) << 16 | u32::from(low as u16));
        }
    }

    #[inline(always)]
    fn encode<I: Isa>(_: I, from: &[f32], first: &mut [i16], second: &mut [i16]) {
        for ((from, high), low) in from.iter().zip(first).zip(second) {
            *high = (from.to_bits() >> 16) as i16;
            *low = from.to_bits() as i16;
        }
    }
}

/// An i8 per element and an f32 scale per 64 elements, from the largest finite magnitude. Larger values are clamped, a
/// NaN becomes 0.
pub(crate) struct Scaled;

impl Format for Scaled {
    #[inline(always)]
    fn decode<I: Isa>(_: I, first: &[i8], second: &[f32], to: &mut [f32]) {
        for ((to, codes), &scale) in to.chunks_mut(64).zip(first.chunks(64)).zip(second) {
            for (to, &code) in to.iter_mut().zip(codes) {
                *to = f32::from(code) * scale;
            }
        }
    }

    #[inline(always)]
    fn encode<I: Isa>(_: I, from: &[f32], first: &mut [i8], second: &mut [f32]) {
        for ((from, codes), scale) in from.chunks(64).zip(first.chunks_mut(64)).zip(second) {
            let largest = from.iter().filter(|value| value.is_finite()).fold(0.0, |a: f32, b| a.max(b.abs()));
            *scale = largest / 127.0;
            for (&from, code) in from.iter().zip(codes) {
                *code = if *scale > 0.0 { (from / *scale).round_ties_even() as i8 } else { 0 };
            }
        }
    }
}
