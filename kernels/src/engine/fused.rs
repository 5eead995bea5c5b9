//! Fused kernels of the step: an element stays in registers from its load to its store.
//!
//! [`Bare`] is the rule alone, in every variant. [`Full`] has every optional part, each behind a branch that goes the same
//! way for every element. Both are compiled for the hot combinations of formats in [`step`](super::step), and for f32
//! throughout they are also the stage of a tile ([`tiles`](super::tiles)): the rule is written once.

use core::marker::PhantomData;

use super::View;
use super::chunk::{Chunk, ChunkOp, both, for_each_chunk};
use super::lanes::{LaneCodec, with_lanes};
use crate::format::Dtype;
use crate::isa::{Isa, Kernel};
use crate::role::Role;
use crate::rule::{Decay, EmaRule, GradientOps, LionRule, Scale, Unscaled};
use crate::settings::LionStep;

/// The formats of parameter, gradient and momentum.
pub(super) trait Formats {
    type P: LaneCodec;
    type G: LaneCodec;
    type M: LaneCodec;

    /// Whether all three have the cheaper order of lanes.
    const SPLITS: bool = Self::P::SPLITS && Self::G::SPLITS && Self::M::SPLITS;

    /// Whether lanes of plain Rust are as fast as tiles: they are where no order of lanes is changed.
    const SCALAR_LANES: bool = Self::P::SCALAR_LANES
        && Self::G::SCALAR_LANES
        && Self::M::SCALAR_LANES
        && Self::P::SPLITS == Self::G::SPLITS
        && Self::G::SPLITS == Self::M::SPLITS;
}

impl<P: LaneCodec, G: LaneCodec, M: LaneCodec> Formats for (P, G, M) {
    type P = P;
    type G = G;
    type M = M;
}

/// The tensors of a step, of known formats.
pub(super) struct Tensors<T: Formats> {
    pub(super) from: *const T::P,
    pub(super) to: *mut T::P,
    pub(super) gradient: *const T::G,
    pub(super) momentum: *mut T::M,
    /// Elements of each.
    pub(super) len: usize,
    pub(super) prefetch: bool,
}

impl<T: Formats> Tensors<T> {
    /// The caller has chosen the formats by the view's dtypes.
    #[inline(always)]
    pub(super) fn of(view: &View) -> Self {
        Tensors {
            from: view.columns.first(view.source()).cast::<T::P>().cast_const(),
            to: view.columns.first(Role::Parameter).cast::<T::P>(),
            gradient: view.columns.first(Role::Gradient).cast::<T::G>().cast_const(),
            momentum: view.columns.first(Role::Momentum).cast::<T::M>(),
            len: view.len,
            prefetch: view.prefetch,
        }
    }

    #[inline(always)]
    fn prefetch<I: Isa, const FULL: bool>(&self, chunk: Chunk<I, FULL>) {
        if FULL && self.prefetch {
            chunk.prefetch(self.from);
            chunk.prefetch(self.gradient);
            chunk.prefetch(self.momentum.cast_const());
        }
    }
}

/// The rule alone.
pub(super) struct Bare<'a, T: Formats, D, S> {
    pub(super) step: &'a LionStep,
    pub(super) tensors: Tensors<T>,
    pub(super) variant: PhantomData<(D, S)>,
}

impl<T: Formats, D: Decay, S: Scale> Kernel for Bare<'_, T, D, S> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let len = self.tensors.len;
        let mut op = BareOp::<I, T, D, S> { rule: LionRule::new(isa, self.step), tensors: self.tensors };
        // SAFETY: each tensor has `len` elements.
        unsafe { for_each_chunk(isa, 0..len, &mut op) }
    }
}

struct BareOp<I: Isa, T: Formats, D, S> {
    rule: LionRule<I, D, S>,
    tensors: Tensors<T>,
}

impl<I: Isa, T: Formats, D: Decay, S: Scale> ChunkOp<I> for BareOp<I, T, D, S> {
    #[inline(always)]
    unsafe fn apply<const FULL: bool>(&mut self, chunk: Chunk<I, FULL>) {
        let Tensors { from, to, gradient, momentum, .. } = self.tensors;
        self.tensors.prefetch(chunk);
        // SAFETY: the chunk lies within the tensors by this function's contract.
        unsafe {
            let p = chunk.load(from, T::SPLITS);
            let g = chunk.load(gradient, T::SPLITS);
            let m = chunk.load(momentum.cast_const(), T::SPLITS);
            let [(p0, m0), (p1, m1)] = both!(i => self.rule.step(p[i], g[i], m[i]));
            chunk.store(momentum, T::SPLITS, [m0, m1]);
            chunk.store(to, T::SPLITS, [p0, p1]);
        }
    }
}

/// The optional tensors of a step.
#[derive(Clone, Copy)]
pub(super) struct Optional {
    pub(super) accumulator: *mut f32,
    pub(super) ema: *mut f32,
    pub(super) copy: Option<(Dtype, *mut u8)>,
}

impl Optional {
    #[inline(always)]
    pub(super) fn of(view: &View) -> Self {
        let copy = || (view.dtype(Role::Copy), view.columns.first(Role::Copy));
        Optional {
            accumulator: view.f32_at(Role::Accumulator, 0),
            ema: view.f32_at(Role::Ema, 0),
            copy: view.columns.given().has(Role::Copy).then(copy),
        }
    }
}

/// The rule with every transform of the gradient, the moving average and the copy.
pub(super) struct Full<'a, T: Formats, D> {
    pub(super) step: &'a LionStep,
    pub(super) tensors: Tensors<T>,
    pub(super) optional: Optional,
    pub(super) variant: PhantomData<D>,
}

impl<T: Formats, D: Decay> Kernel for Full<'_, T, D> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let Full { step, optional, .. } = self;
        let len = self.tensors.len;
        let (rule, ops) = (LionRule::new(isa, step), GradientOps::new(isa, &step.gradient));
        let mut op = FullOp::<I, T, D> { isa, step, rule, ops, tensors: self.tensors, optional };
        // SAFETY: each tensor that is given has `len` elements.
        unsafe { for_each_chunk(isa, 0..len, &mut op) }
    }
}

struct FullOp<'a, I: Isa, T: Formats, D> {
    isa: I,
    step: &'a LionStep,
    rule: LionRule<I, D, Unscaled>,
    ops: GradientOps<I>,
    tensors: Tensors<T>,
    optional: Optional,
}

impl<I: Isa, T: Formats, D: Decay> ChunkOp<I> for FullOp<'_, I, T, D> {
    #[inline(always)]
    unsafe fn apply<const FULL: bool>(&mut self, chunk: Chunk<I, FULL>) {
        let isa = self.isa;
        let Tensors { from, to, gradient, momentum, .. } = self.tensors;
        let Optional { accumulator, ema, copy } = self.optional;
        self.tensors.prefetch(chunk);
        if FULL && self.tensors.prefetch {
            for optional in [accumulator, ema] {
                if !optional.is_null() {
                    chunk.prefetch(optional.cast_const());
                }
            }
        }
        // SAFETY: the chunk lies within the tensors by this function's contract, and the optional ones are given where
        // the settings ask for them, which was checked when the task was made.
        unsafe {
            let g = chunk.load(gradient, false);
            let g = chunk.averaged(&self.ops, g, accumulator);
            if self.ops.averages() {
                chunk.store(accumulator, false, [isa.splat(0.0); 2]);
            }
            let g = both!(i => self.ops.clipped(g[i]));
            let m = chunk.load(momentum.cast_const(), false);
            let p = chunk.load(from, false);
            let [(p0, m0), (p1, m1)] = both!(i => self.rule.step(p[i], g[i], m[i]));
            chunk.store(momentum, false, [m0, m1]);

            if self.step.ema.is_none() && copy.is_none() {
                chunk.store(to, false, [p0, p1]);
                return;
            }
            // The average and the copy are of the parameter as stored.
            let mut stored = T::P::rounded(isa, [p0, p1]);
            if let Some(settings) = &self.step.ema {
                let rule = EmaRule::new(isa, settings);
                let average = chunk.load(ema.cast_const(), false);
                let average = both!(i => rule.averaged(average[i], stored[i]));
                chunk.store(ema, false, average);
                if settings.overwrite {
                    stored = T::P::rounded(isa, average);
                }
            }
            chunk.store_rounded(to, stored);
            if let Some((dtype, copy)) = copy {
                with_lanes!(dtype, C => chunk.store(copy.cast::<C>(), false, stored), else {
                    debug_assert!(false, "a copy in {dtype} goes through tiles");
                });
            }
        }
    }
}
