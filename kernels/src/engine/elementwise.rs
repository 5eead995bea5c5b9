//! Passes other than the step: gradient accumulation, EMA, dtype conversion.
//!
//! Each is an operation on lanes of any [`LaneCodec`]. If the tensor's format has a lane codec, the operation works in
//! place. Other formats are decoded into a tile first, and so are 16-bit formats without vector registers.

use super::View;
use super::chunk::{Chunk, ChunkOp, both, for_each_chunk};
use super::lanes::{LaneCodec, with_lanes};
use super::tiles::{Tile, decode, encode, for_each_tile};
use crate::isa::{Isa, Kernel};
use crate::role::Role;
use crate::rule::{EmaRule, GradientOps};
use crate::settings::{Ema, GradientTransform};

/// Returns whether passes work on a format in place.
const fn in_place<I: Isa, F: LaneCodec>() -> bool {
    I::FUSED || !F::SPLITS && F::SCALAR_LANES
}

/// The kernel that adds the gradient to the accumulator.
pub(super) struct Accumulate<'a> {
    pub(super) transform: &'a GradientTransform,
    pub(super) view: &'a View,
}

impl Kernel for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let Accumulate { transform, view } = self;
        with_lanes!(view.dtype(Role::Gradient), G => if const { in_place::<I, G>() } {
            let gradient = G::pointers(view.tensors.streams(Role::Gradient, 0));
            let sums = view.f32_at(Role::Accumulator, 0);
            return isa.vectorize(Add::<G> { transform, gradient, sums, n: view.len });
        }, else ());
        let mut tile = Tile::new();
        // SAFETY: the tiles cover the view, and both tensors are given.
        for_each_tile(view.len, |start, n| unsafe {
            let gradient = decode(isa, view, Role::Gradient, start, n, &mut tile);
            isa.vectorize(Add::<f32> { transform, gradient, sums: view.f32_at(Role::Accumulator, start), n });
        });
    }
}

struct Add<'a, G: LaneCodec> {
    transform: &'a GradientTransform,
    gradient: G::Pointers,
    sums: *mut f32,
    n: usize,
}

impl<G: LaneCodec> Kernel for Add<'_, G> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let Add { gradient, sums, .. } = self;
        let mut op = AddOp::<I, G> { isa, ops: GradientOps::new(isa, self.transform), gradient, sums };
        // SAFETY: both tensors have `n` elements.
        unsafe { for_each_chunk(isa, 0..self.n, &mut op) }
    }
}

struct AddOp<I: Isa, G: LaneCodec> {
    isa: I,
    ops: GradientOps<I>,
    gradient: G::Pointers,
    sums: *mut f32,
}

impl<I: Isa, G: LaneCodec> ChunkOp<I> for AddOp<I, G> {
    #[inline(always)]
    unsafe fn apply<const FULL: bool>(&mut self, chunk: Chunk<I, FULL>) {
        // SAFETY: the chunk lies within the tensors by this function's contract.
        unsafe {
            let g = chunk.load::<G>(self.gradient, false);
            let sum = chunk.load::<f32>(self.sums, false);
            chunk.store::<f32>(self.sums, false, both!(i => self.isa.add(self.ops.unscaled(g[i]), sum[i])));
        }
    }
}

/// The kernel that updates the moving average.
pub(super) struct UpdateEma<'a> {
    pub(super) ema: &'a Ema,
    pub(super) view: &'a View,
}

impl Kernel for UpdateEma<'_> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let UpdateEma { ema, view } = self;
        with_lanes!(view.dtype(Role::Parameter), P => if const { in_place::<I, P>() } {
            let parameter = P::pointers(view.tensors.streams(Role::Parameter, 0));
            let average = view.f32_at(Role::Ema, 0);
            return isa.vectorize(Average::<P> { ema, average, parameter, n: view.len });
        }, else ());
        let mut tile = Tile::new();
        // SAFETY: the tiles cover the view, and both tensors are given.
        for_each_tile(view.len, |start, n| unsafe {
            update_ema_in_tile(isa, ema, view, start, n, &mut tile);
        });
    }
}

/// Updates the moving average of a parameter through a tile. Returns the parameter's values after the pass.
///
/// # Safety
/// The contract of [`decode`]; parameter and average are given.
#[inline(always)]
pub(super) unsafe fn update_ema_in_tile<I: Isa>(
    isa: I,
    ema: &Ema,
    view: &View,
    start: usize,
    n: usize,
    tile: &mut Tile,
) -> *const f32 {
    let average = view.f32_at(Role::Ema, start);
    // SAFETY: by this function's contract.
    unsafe {
        let parameter = decode(isa, view, Role::Parameter, start, n, tile);
        let keeps = Ema { overwrite: false, ..*ema };
        isa.vectorize(Average::<f32> { ema: &keeps, average, parameter, n });
        if !ema.overwrite {
            return parameter;
        }
        encode(isa, view, Role::Parameter, start, n, average);
        decode(isa, view, Role::Parameter, start, n, tile)
    }
}

struct Average<'a, P: LaneCodec> {
    ema: &'a Ema,
    average: *mut f32,
    parameter: P::Pointers,
    n: usize,
}

impl<P: LaneCodec> Kernel for Average<'_, P> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let Average { ema, average, parameter, n } = self;
        let mut op = AverageOp::<I, P> {
            isa,
            rule: EmaRule::new(isa, ema),
            overwrite: ema.overwrite,
            average,
            parameter,
        };
        // SAFETY: both tensors have `n` elements.
        unsafe { for_each_chunk(isa, 0..n, &mut op) }
    }
}

struct AverageOp<I: Isa, P: LaneCodec> {
    isa: I,
    rule: EmaRule<I>,
    overwrite: bool,
    average: *mut f32,
    parameter: P::Pointers,
}

impl<I: Isa, P: LaneCodec> ChunkOp<I> for AverageOp<I, P> {
    #[inline(always)]
    unsafe fn apply<const FULL: bool>(&mut self, chunk: Chunk<I, FULL>) {
        // SAFETY: the chunk lies within the tensors by this function's contract.
        unsafe {
            let p = chunk.load::<P>(self.parameter, false);
            let average = chunk.load::<f32>(self.average, false);
            let average = both!(i => self.rule.averaged(average[i], p[i]));
            chunk.store::<f32>(self.average, false, average);
            if self.overwrite {
                P::store_rounded(chunk, self.parameter, P::rounded(self.isa, average));
            }
        }
    }
}

/// The kernel that converts a tensor to another format.
pub(super) struct Convert<'a> {
    pub(super) view: &'a View,
}

impl Kernel for Convert<'_> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let view = self.view;
        if view.dtype(Role::Source) == view.dtype(Role::Copy) {
            // SAFETY: both tensors are given, and they do not overlap.
            return unsafe { copy(view) };
        }
        with_lanes!(view.dtype(Role::Source), S => with_lanes!(view.dtype(Role::Copy), T => {
            if const { in_place::<I, S>() && in_place::<I, T>() } {
                let from = S::pointers(view.tensors.streams(Role::Source, 0));
                let to = T::pointers(view.tensors.streams(Role::Copy, 0));
                return isa.vectorize(Move::<S, T> { from, to, n: view.len });
            }
        }, else ()), else ());
        let mut tile = Tile::new();
        // SAFETY: the tiles cover the view, and both tensors are given.
        for_each_tile(view.len, |start, n| unsafe {
            let values = decode(isa, view, Role::Source, start, n, &mut tile);
            encode(isa, view, Role::Copy, start, n, values);
        });
    }
}

/// Copies a tensor to another of the same format.
///
/// # Safety
/// Source and copy are given, and do not overlap.
#[inline(always)]
unsafe fn copy(view: &View) {
    let (from, to) = (view.tensors.streams(Role::Source, 0), view.tensors.streams(Role::Copy, 0));
    for ((from, to), stream) in from.into_iter().zip(to).zip(view.dtype(Role::Copy).streams()) {
        // SAFETY: the view lies within both tensors, and by this function's contract.
        unsafe { from.copy_to_nonoverlapping(to, stream.bytes_of(view.len)) };
    }
}

struct Move<S: LaneCodec, T: LaneCodec> {
    from: S::Pointers,
    to: T::Pointers,
    n: usize,
}

impl<S: LaneCodec, T: LaneCodec> Kernel for Move<S, T> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(mut self, isa: I) {
        // SAFETY: both tensors have `n` elements.
        unsafe { for_each_chunk(isa, 0..self.n, &mut self) }
    }
}

impl<I: Isa, S: LaneCodec, T: LaneCodec> ChunkOp<I> for Move<S, T> {
    #[inline(always)]
    unsafe fn apply<const FULL: bool>(&mut self, chunk: Chunk<I, FULL>) {
        // SAFETY: the chunk lies within both tensors by this function's contract.
        unsafe { chunk.store::<T>(self.to, false, chunk.load::<S>(self.from, false)) }
    }
}
