//! The sum of several tensors, tile by tile.
//!
//! Partial sums lie on a stack of levels. A level holds the address of its values: an f32 source is read in place;
//! other formats are decoded into the level's tile, and sums are written there. The last sum is stored.

use core::ptr::null;

use super::chunk::{Chunk, ChunkOp, both, for_each_chunk};
use super::tiles::{Tile, decode, encode, for_each_tile};
use super::{TILE, View};
use crate::isa::{Isa, Kernel};
use crate::role::Role;

/// A stack entry: room for one partial sum.
pub(crate) struct Level {
    tile: Tile,
    values: *const f32,
}

impl Level {
    /// The number of elements that a level holds.
    pub(crate) const ELEMENTS: usize = TILE;

    pub(crate) fn new() -> Self {
        Level { tile: Tile::new(), values: null() }
    }
}

/// The kernel that adds the sources in the order that the merges define. The creator guarantees: one merge count per
/// source; at most as many partial sums at a time as levels; two partial sums for every merge; one sum at the end; and
/// all tensors have the length of `to`.
pub(crate) struct Sum<'a> {
    /// The sources, each a view with a [`Role::Source`].
    pub(crate) sources: &'a [View],
    pub(crate) merges: &'a [u8],
    pub(crate) divisor: Option<f32>,
    /// The output, a view with a [`Role::Copy`].
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
                // SAFETY: the creator guarantees a level for this sum, and two partial sums for each merge. The tile
                // lies within the source, which is given.
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
            // SAFETY: the first level holds the last sum. The tile lies within `to`, which is given.
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

/// The kernel that adds two arrays. Only [`Sum`] creates it, with `n` elements in each array. `sum` may be the same
/// memory as `left`.
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
        // SAFETY: all three arrays have `n` elements.
        unsafe { for_each_chunk(isa, 0..self.n, &mut Lanes { isa, op: &mut self }) }
    }
}

/// The kernel that divides an array. Only [`Sum`] creates it, with `n` elements in both arrays. They may be the same
/// memory.
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
        // SAFETY: both arrays have `n` elements.
        unsafe { for_each_chunk(isa, 0..self.n, &mut Lanes { isa, op: &mut self }) }
    }
}

/// An operation with the token of its instruction set.
struct Lanes<'a, I, T> {
    isa: I,
    op: &'a mut T,
}

impl<I: Isa> ChunkOp<I> for Lanes<'_, I, Add> {
    #[inline(always)]
    unsafe fn apply<const FULL: bool>(&mut self, chunk: Chunk<I, FULL>) {
        // SAFETY: the chunk lies within all three arrays by this function's contract.
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
        // SAFETY: the chunk lies within both arrays by this function's contract.
        unsafe {
            let from = chunk.load::<f32>(self.op.from.cast_mut(), false);
            chunk.store::<f32>(self.op.quotient, false, both!(i => self.isa.div(from[i], divisor)));
        }
    }
}
