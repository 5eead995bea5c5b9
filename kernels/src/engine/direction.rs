//! The direction of a step on its own, for a tile: the sign of `c`, from the gradient and the old momentum.

use super::chunk::{Chunk, ChunkOp, both, for_each_chunk};
use crate::isa::{Isa, Kernel};
use crate::rule::{GradientOps, LionRule, NoDecay, Unscaled};
use crate::settings::LionStep;

/// Writes the directions of `n` elements; changes nothing else.
pub(super) struct Directions<'a> {
    pub(super) step: &'a LionStep,
    pub(super) gradient: *mut f32,
    pub(super) momentum: *mut f32,
    /// Null if the step does not average.
    pub(super) accumulator: *mut f32,
    pub(super) to: *mut f32,
    pub(super) n: usize,
}

impl Kernel for Directions<'_> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let (rule, ops) = (LionRule::new(isa, self.step), GradientOps::new(isa, &self.step.gradient));
        let n = self.n;
        let mut op = DirectionsOp { rule, ops, tensors: self };
        // SAFETY: each tensor that the step needs has `n` elements.
        unsafe { for_each_chunk(isa, 0..n, &mut op) }
    }
}

struct DirectionsOp<'a, I: Isa> {
    rule: LionRule<I, NoDecay, Unscaled>,
    ops: GradientOps<I>,
    tensors: Directions<'a>,
}

impl<I: Isa> ChunkOp<I> for DirectionsOp<'_, I> {
    #[inline(always)]
    unsafe fn apply<const FULL: bool>(&mut self, chunk: Chunk<I, FULL>) {
        let Directions { gradient, momentum, accumulator, to, .. } = self.tensors;
        // SAFETY: the chunk lies within the tensors by this function's contract, and the accumulator is given if the
        // transform averages.
        unsafe {
            let g = chunk.load::<f32>(gradient, false);
            let g = chunk.averaged(&self.ops, g, accumulator);
            let g = both!(i => self.ops.clipped(g[i]));
            let m = chunk.load::<f32>(momentum, false);
            chunk.store::<f32>(to, false, both!(i => self.rule.sign(g[i], m[i])));
        }
    }
}
