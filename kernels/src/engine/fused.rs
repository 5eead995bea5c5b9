//! Fused kernels of the step: an element stays in registers from load to store.
//!
//! [`Bare`] computes the rule alone, in every variant. [`Full`] adds every optional part, each behind a branch that is
//! the same for all elements. Both are compiled for the common format combinations in [`step`](super::step). For f32
//! tensors they are also the compute stage of a tile ([`tiles`](super::tiles)), so the rule exists once.

use core::marker::PhantomData;

use half::bf16;

use super::View;
use super::chunk::{Chunk, ChunkOp, both, for_each_chunk};
use super::lanes::{LaneCodec, Pair, store_stochastic, with_lanes};
use crate::format::Dtype;
use crate::isa::{Isa, Kernel};
use crate::role::Role;
use crate::rounding::Draws;
use crate::rule::{Decay, EmaRule, GradientOps, LionRule, Scale, Unscaled};
use crate::settings::LionStep;

/// The formats of parameter, gradient and momentum.
pub(super) trait Formats {
    type P: LaneCodec;
    type G: LaneCodec;
    type M: LaneCodec;

    /// Whether all three support the split order of lanes.
    const SPLITS: bool = Self::P::SPLITS && Self::G::SPLITS && Self::M::SPLITS;

    /// Whether scalar lanes are as fast as tiles. This holds if all three have the same order of lanes.
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

/// The stream addresses of a tensor.
type Pointers<F> = <F as LaneCodec>::Pointers;

/// The tensors of a step, with formats known at compile time.
pub(super) struct TypedTensors<T: Formats> {
    pub(super) from: Pointers<T::P>,
    pub(super) to: Pointers<T::P>,
    pub(super) gradient: Pointers<T::G>,
    pub(super) momentum: Pointers<T::M>,
    /// The index of the tensors' first element in the variable.
    pub(super) first: u64,
    /// The number of elements of each tensor.
    pub(super) len: usize,
    pub(super) prefetch: bool,
}

impl<T: Formats> TypedTensors<T> {
    /// Returns the tensors of a view. Requires that the formats are those of the view's dtypes.
    #[inline(always)]
    pub(super) fn of(view: &View) -> Self {
        let momentum = T::M::pointers(view.tensors.streams(Role::Momentum, 0));
        Self::with_momentum(view, 0, view.len, momentum)
    }

    /// Returns `n` elements from `start` on, with the momentum at another address.
    #[inline(always)]
    pub(super) fn with_momentum(view: &View, start: usize, n: usize, momentum: Pointers<T::M>) -> Self {
        TypedTensors {
            from: T::P::pointers(view.tensors.streams(view.source(), start)),
            to: T::P::pointers(view.tensors.streams(Role::Parameter, start)),
            gradient: T::G::pointers(view.tensors.streams(Role::Gradient, start)),
            momentum,
            first: view.first.wrapping_add(start as u64),
            len: n,
            prefetch: view.prefetch,
        }
    }

    #[inline(always)]
    fn prefetch<I: Isa, const FULL: bool>(&self, chunk: Chunk<I, FULL>) {
        if FULL && self.prefetch {
            T::P::prefetch(chunk, self.from);
            T::G::prefetch(chunk, self.gradient);
        }
    }

    #[inline(always)]
    fn prefetch_momentum<I: Isa, const FULL: bool>(&self, chunk: Chunk<I, FULL>) {
        if FULL && self.prefetch {
            T::M::prefetch(chunk, self.momentum);
        }
    }
}

/// The rounding of the stored parameter.
pub(super) trait Rounding<P: LaneCodec> {
    /// The state that a kernel keeps in registers.
    type State<I: Isa>;

    fn new<I: Isa>(isa: I, step: &LionStep) -> Self::State<I>;

    /// # Safety
    /// The chunk's elements are writable.
    unsafe fn store<I: Isa, const FULL: bool>(
        state: &Self::State<I>,
        chunk: Chunk<I, FULL>,
        tensors: (Pointers<P>, u64),
        split: bool,
        value: Pair<I>,
    );
}

/// Rounds to nearest even.
pub(super) struct Nearest;

impl<P: LaneCodec> Rounding<P> for Nearest {
    type State<I: Isa> = ();

    #[inline(always)]
    fn new<I: Isa>(_: I, _: &LionStep) {}

    #[inline(always)]
    unsafe fn store<I: Isa, const FULL: bool>(
        (): &(),
        chunk: Chunk<I, FULL>,
        (to, _): (Pointers<P>, u64),
        split: bool,
        value: Pair<I>,
    ) {
        // SAFETY: by this function's contract.
        unsafe { chunk.store::<P>(to, split, value) }
    }
}

/// Rounds up or down at random; see [`crate::rounding`]. Requires that the step has a key.
pub(super) struct Stochastic;

impl Rounding<bf16> for Stochastic {
    type State<I: Isa> = Draws<I>;

    #[inline(always)]
    fn new<I: Isa>(isa: I, step: &LionStep) -> Draws<I> {
        Draws::new(isa, step.stochastic_rounding.unwrap_or_default())
    }

    #[inline(always)]
    unsafe fn store<I: Isa, const FULL: bool>(
        draws: &Draws<I>,
        chunk: Chunk<I, FULL>,
        (to, first): (*mut bf16, u64),
        split: bool,
        value: Pair<I>,
    ) {
        // Chunks begin at a multiple of two vectors in the variable, because tasks begin at multiples of
        // `Task::ALIGNMENT`.
        let draws = draws.for_neighbours(chunk.index(first) / 2, split);
        // SAFETY: by this function's contract.
        unsafe { store_stochastic(chunk, to, split, value, draws) }
    }
}

/// The kernel of a step without optional parts.
pub(super) struct Bare<'a, T: Formats, D, S, R> {
    pub(super) step: &'a LionStep,
    pub(super) tensors: TypedTensors<T>,
    pub(super) variant: PhantomData<(D, S, R)>,
}

impl<T: Formats, D: Decay, S: Scale, R: Rounding<T::P>> Kernel for Bare<'_, T, D, S, R> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let len = self.tensors.len;
        let mut op = BareOp::<I, T, D, S, R>::new(isa, self.step, self.tensors);
        // SAFETY: each tensor has `len` elements.
        unsafe { for_each_chunk(isa, 0..len, &mut op) }
    }
}

/// The operation of [`Bare`] on a chunk.
pub(super) struct BareOp<I: Isa, T: Formats, D, S, R: Rounding<T::P>> {
    rule: LionRule<I, D, S>,
    rounding: R::State<I>,
    pub(super) tensors: TypedTensors<T>,
}

impl<I: Isa, T: Formats, D: Decay, S: Scale, R: Rounding<T::P>> BareOp<I, T, D, S, R> {
    #[inline(always)]
    pub(super) fn new(isa: I, step: &LionStep, tensors: TypedTensors<T>) -> Self {
        BareOp { rule: LionRule::new(isa, step), rounding: R::new(isa, step), tensors }
    }

    /// Steps a chunk's parameter with a given momentum, and returns the new momentum.
    ///
    /// # Safety
    /// The chunk lies within parameter and gradient. If `split` is set, their formats support the split order.
    #[inline(always)]
    pub(super) unsafe fn step<const FULL: bool>(
        &self,
        chunk: Chunk<I, FULL>,
        m: Pair<I>,
        split: bool,
    ) -> Pair<I> {
        let TypedTensors { from, to, gradient, first, .. } = self.tensors;
        self.tensors.prefetch(chunk);
        // SAFETY: the chunk lies within the tensors by this function's contract.
        unsafe {
            let p = chunk.load::<T::P>(from, split);
            let g = chunk.load::<T::G>(gradient, split);
            let [(p0, m0), (p1, m1)] = both!(i => self.rule.step(p[i], g[i], m[i]));
            R::store(&self.rounding, chunk, (to, first), split, [p0, p1]);
            [m0, m1]
        }
    }
}

impl<I: Isa, T: Formats, D: Decay, S: Scale, R: Rounding<T::P>> ChunkOp<I> for BareOp<I, T, D, S, R> {
    #[inline(always)]
    unsafe fn apply<const FULL: bool>(&mut self, chunk: Chunk<I, FULL>) {
        let momentum = self.tensors.momentum;
        self.tensors.prefetch_momentum(chunk);
        // SAFETY: the chunk lies within the tensors by this function's contract.
        unsafe {
            let m = chunk.load::<T::M>(momentum, T::SPLITS);
            let m = self.step(chunk, m, T::SPLITS);
            chunk.store::<T::M>(momentum, T::SPLITS, m);
        }
    }
}

/// The kernel that stores values as bfloat16 with stochastic rounding.
pub(super) struct StoreStochastic<'a> {
    pub(super) step: &'a LionStep,
    pub(super) from: *const f32,
    pub(super) to: *mut bf16,
    /// The index of the first element in the variable.
    pub(super) first: u64,
    pub(super) n: usize,
}

impl Kernel for StoreStochastic<'_> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let draws = Stochastic::new(isa, self.step);
        let mut op = StoreStochasticOp { draws, from: self.from.cast_mut(), to: self.to, first: self.first };
        // SAFETY: both tensors have `n` elements.
        unsafe { for_each_chunk(isa, 0..self.n, &mut op) }
    }
}

struct StoreStochasticOp<I: Isa> {
    draws: Draws<I>,
    from: *mut f32,
    to: *mut bf16,
    first: u64,
}

impl<I: Isa> ChunkOp<I> for StoreStochasticOp<I> {
    #[inline(always)]
    unsafe fn apply<const FULL: bool>(&mut self, chunk: Chunk<I, FULL>) {
        // SAFETY: the chunk lies within both tensors by this function's contract.
        unsafe {
            let value = chunk.load::<f32>(self.from, false);
            Stochastic::store(&self.draws, chunk, (self.to, self.first), false, value);
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
        let copy = || (view.dtype(Role::Copy), view.tensors.first(Role::Copy));
        Optional {
            accumulator: view.f32_at(Role::Accumulator, 0),
            ema: view.f32_at(Role::Ema, 0),
            copy: view.tensors.given().has(Role::Copy).then(copy),
        }
    }
}

/// The kernel of a step with every optional part: gradient transforms, moving average, copy.
pub(super) struct Full<'a, T: Formats, D> {
    pub(super) step: &'a LionStep,
    pub(super) tensors: TypedTensors<T>,
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
        // SAFETY: each given tensor has `len` elements.
        unsafe { for_each_chunk(isa, 0..len, &mut op) }
    }
}

struct FullOp<'a, I: Isa, T: Formats, D> {
    isa: I,
    step: &'a LionStep,
    rule: LionRule<I, D, Unscaled>,
    ops: GradientOps<I>,
    tensors: TypedTensors<T>,
    optional: Optional,
}

impl<I: Isa, T: Formats, D: Decay> ChunkOp<I> for FullOp<'_, I, T, D> {
    #[inline(always)]
    unsafe fn apply<const FULL: bool>(&mut self, chunk: Chunk<I, FULL>) {
        let isa = self.isa;
        let TypedTensors { from, to, gradient, momentum, .. } = self.tensors;
        let Optional { accumulator, ema, copy } = self.optional;
        self.tensors.prefetch(chunk);
        self.tensors.prefetch_momentum(chunk);
        if FULL && self.tensors.prefetch {
            for optional in [accumulator, ema] {
                if !optional.is_null() {
                    chunk.prefetch(optional);
                }
            }
        }
        // SAFETY: the chunk lies within the tensors by this function's contract. The task's constructor checked that
        // the optional tensors are given if the settings require them.
        unsafe {
            let g = chunk.load::<T::G>(gradient, false);
            let g = chunk.averaged(&self.ops, g, accumulator);
            if self.ops.averages() {
                chunk.store::<f32>(accumulator, false, [isa.splat(0.0); 2]);
            }
            let g = both!(i => self.ops.clipped(g[i]));
            let m = chunk.load::<T::M>(momentum, false);
            let p = chunk.load::<T::P>(from, false);
            let [(p0, m0), (p1, m1)] = both!(i => self.rule.step(p[i], g[i], m[i]));
            chunk.store::<T::M>(momentum, false, [m0, m1]);

            if self.step.ema.is_none() && copy.is_none() {
                chunk.store::<T::P>(to, false, [p0, p1]);
                return;
            }
            // The average and the copy use the stored, rounded parameter.
            let mut stored = T::P::rounded(isa, [p0, p1]);
            if let Some(settings) = &self.step.ema {
                let rule = EmaRule::new(isa, settings);
                let average = chunk.load::<f32>(ema, false);
                let average = both!(i => rule.averaged(average[i], stored[i]));
                chunk.store::<f32>(ema, false, average);
                if settings.overwrite {
                    stored = T::P::rounded(isa, average);
                }
            }
            T::P::store_rounded(chunk, to, stored);
            if let Some((dtype, copy)) = copy {
                with_lanes!(dtype, C => chunk.store::<C>(copy.cast(), false, stored), else {
                    debug_assert!(false, "a {dtype} copy must go through tiles");
                });
            }
        }
    }
}
