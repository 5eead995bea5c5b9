//! The step with 8-bit momentum: decodes a block of momentum, applies the rule and encodes, block by block.
//!
//! In tiles each stage takes 512 elements, and memory is idle while they are encoded. A block is short enough for the
//! processor to load the next blocks during its arithmetic.

use core::marker::PhantomData;

use super::View;
use super::chunk::{for_each_chunk, prefetch_after};
use super::fused::{BareOp, Formats, Rounding, TypedTensors};
use super::tiles::Step;
use crate::format::q8::{BLOCK, Q8, decode_block, encode_block};
use crate::isa::{Isa, Kernel};
use crate::role::Role;
use crate::rule::{Decay, Scale};
use crate::settings::LionStep;
use crate::tensor::streams_of_mut;

/// The kernel of a step without optional parts, with 8-bit momentum, and with the other tensors in place.
pub(super) struct CodedStep<'a, T, D, S, R> {
    pub(super) step: &'a LionStep,
    pub(super) view: &'a View,
    pub(super) row: PhantomData<(T, D, S, R)>,
}

impl<T: Formats<M = f32>, D: Decay, S: Scale, R: Rounding<T::P>> Kernel for CodedStep<'_, T, D, S, R> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let CodedStep { step, view, .. } = self;
        if !const { I::FUSED || T::SCALAR_LANES } {
            return isa.vectorize(Step { step, view });
        }
        let [codes, scales] = view.tensors.streams(Role::Momentum, 0);
        // SAFETY: the momentum is given, is `q8` and has the view's length; nothing else accesses it.
        let (codes, scales) = unsafe { streams_of_mut::<Q8>(codes, scales, view.len) };
        let mut values = [0.0; BLOCK];
        let mut tensors = TypedTensors::<T>::with_momentum(view, 0, view.len, values.as_mut_ptr());
        tensors.momentum_is_cached = true;
        let mut op = BareOp::<I, T, D, S, R>::new(isa, step, tensors);
        let (blocks, rest) = codes.as_chunks_mut::<BLOCK>();
        let mut start = 0;
        for (codes, scale) in blocks.iter_mut().zip(&mut *scales) {
            // SAFETY: the block lies within the view.
            unsafe { step_block(isa, &mut op, start, codes, scale, &mut values) };
            start += BLOCK;
        }
        if let (Some(scale), false) = (scales.last_mut(), rest.is_empty()) {
            // SAFETY: the last block ends at the end of the view.
            unsafe { step_block(isa, &mut op, start, rest, scale, &mut values) };
        }
    }
}

/// Steps one block, from element `start` on.
///
/// # Safety
/// The tensors have an element for each code.
#[inline(always)]
unsafe fn step_block<I: Isa, T: Formats<M = f32>, D: Decay, S: Scale, R: Rounding<T::P>>(
    isa: I,
    op: &mut BareOp<I, T, D, S, R>,
    start: usize,
    codes: &mut [i8],
    scale: &mut f32,
    values: &mut [f32; BLOCK],
) {
    let len = codes.len();
    let Some(values) = values.get_mut(..len) else { return };
    if op.tensors.prefetch {
        // A block of codes is a cache line.
        prefetch_after(codes.as_ptr().addr());
    }
    decode_block(codes, *scale, values);
    // The kernel adds `start` to every address; `values` begins with that element.
    op.tensors.momentum = values.as_mut_ptr().wrapping_sub(start);
    // SAFETY: by this function's contract; `values` has an element for each code.
    unsafe { for_each_chunk(isa, start..start + len, op) };
    *scale = encode_block(values, codes);
}
