//! The sum of several tensors, a tile at a time.
//!
//! Sums that wait for others are on a stack of levels. A level holds the address of its values: a tensor in f32 is read
//! where it lies, one of another format is decoded into the level's tile, and so is a sum. The last sum is stored.

use core::ptr::null;

use super::chunk::{Chunk, ChunkOp, both, for_each_chunk};
use super::tiles::{Tile, decode, encode, for_each_tile};
use super::{TILE, View};
use crate::isa::{Isa, Kernel};
use crate::role::Role;

/// A sum that waits, or the place for one.
pub(crate) struct Level {
    tile: Tile,
    values: *const f32,
}

impl Level {
    /// Elements that a level has room for.
    pub(crate) const ELEMENTS: usize = TILE;

    pub(crate) fn new() -> Self {
        Level { tile: Tile::new(), values: null() }
    }
}

/// Adds the sources in the order that the merges say. Who makes one upholds: there are as many merges as sources, no more
/// sums wait at a time than there are levels, no merge lacks its two sums, one sum is left, and all tensors have the
/// length of `to`.
pub(crate) struct Sum<'a> {
    /// Each with a [`Role::Source`].
    pub(crate) sources: &'a [View],
    pub(crate) merges: &'a [u8],
    pub(crate) divisor: Option<f32>,
    /// With a [`Role::Copy`].
    pub(crate) to: &'a View,
    pub(crate) levels: &'a mut [Level],
}

impl Kernel for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let Sum { sources, merges, divisor, to, levels } = self;
        let levels = levels.as_mut_ptr();
        for_each_tile(to.len, |start, n| {
            let mut waiting = 0;
            for (source, &merges) in sources.iter().zip(merges) {
                // SAFETY: the maker upholds that there is a level for this sum, and two for each merge; the tile lies
                // within the source, which is given.
                unsafe {
                    let level = &mut *levels.add(waiting);
                    level.values = decode(isa, source, Role::Source, start, n, &mut level.tile);
                    waiting += 1;
                    for _ in 0..merges {
                        waiting -= 1;
                        let right = (*levels.add(waiting)).values;
                        let left = &mut *levels.add(waiting - 1);
                        let sum = left.tile.start();
                        isa.vectorize(Add { left: left.values, right, sum, n });
                        left.values = sum;
                    }
                }
            }
            // SAFETY: a sum is left at the first level; the tile lies within `to`, which is given.
            unsafe {
                let last = &mut *levels;
                if let Some(divisor) = divisor {
                    let quotient = last.tile.start();
                    isa.vectorize(Divide { from: last.values, divisor, quotient, n });
                    last.values = quotient;
                }
                encode(isa, to, Role::Copy, start, n, last.values);
            }
        });
    }
}

/// Built by [`Sum`] only: the values and the sum have `n` elements. The sum may lie where the left values do.
struct Add {
    left: *const f32,
    right: *const f32,
    sum: *mut f32,
    n: usize,
}

impl Kernel for Add {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(mut self, isa: I) {
        // SAFETY: all three have `n` elements.
        unsafe { for_each_chunk(isa, 0..self.n, &mut Lanes { isa, op: &mut self }) }
    }
}

/// Built by [`Sum`] only: both have `n` elements, and may be the same.
struct Divide {
    from: *const f32,
    divisor: f32,
    quotient: *mut f32,
    n: usize,
}

impl Kernel for Divide {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(mut self, isa: I) {
        // SAFETY: both have `n` elements.
        unsafe { for_each_chunk(isa, 0..self.n, &mut Lanes { isa, op: &mut self }) }
    }
}

/// An operation on the lanes of an instruction set.
struct Lanes<'a, I, T> {
    isa: I,
    op: &'a mut T,
}

impl<I: Isa> ChunkOp<I> for Lanes<'_, I, Add> {
    #[inline(always)]
    unsafe fn apply<const FULL: bool>(&mut self, chunk: Chunk<I, FULL>) {
        // SAFETY: the chunk lies within all three by this function's contract.
        unsafe {
            let left = chunk.load::<f32>(self.op.left.cast_mut(), false);
            let right = chunk.load::<f32>(self.op.right.cast_mut(), false);
            chunk.store::<f32>(self.op.sum, false, both!(i => self.isa.add(left[i], right[i])));
        }
    }
}

impl<I: Isa> ChunkOp<I> for Lanes<'_, I, Divide> {
    #[inline(always)]
    unsafe fn apply<const FULL: bool>(&mut self, chunk: Chunk<I, FULL>) {
        let divisor = self.isa.splat(self.op.divisor);
        // SAFETY: the chunk lies within both by this function's contract.
        unsafe {
            let from = chunk.load::<f32>(self.op.from.cast_mut(), false);
            chunk.store::<f32>(self.op.quotient, false, both!(i => self.isa.div(from[i], divisor)));
        }
    }
}
