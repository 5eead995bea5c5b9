//! The inner loop of every kernel: iterates over a range of elements in chunks of two vectors.
//!
//! The tail, which does not fill a chunk, goes through the same code with partial loads and stores. So each operation
//! is written once, no access passes the end of a tensor, and a result does not depend on the element's position.

use core::ops::Range;

use super::lanes::{LaneCodec, Pair};
use crate::buffer::LINE;
use crate::isa::Isa;
use crate::isa::prefetch::{prefetch, prefetch_to_l2};
use crate::rule::GradientOps;

/// The distance to the data that a kernel prefetches into the L1 cache, in bytes.
const PREFETCH_DISTANCE: usize = 2048;

/// The same for the L2 cache. It is longer than a page of 4 KiB, because the processor's own prefetchers stop at the end
/// of a page. Without this hint, a step from memory takes 2 to 5 % longer on Emerald Rapids.
const L2_PREFETCH_DISTANCE: usize = 6144;

/// Prefetches the cache lines at both distances from an address.
#[inline(always)]
pub(super) fn prefetch_after(address: usize) {
    prefetch(address.wrapping_add(PREFETCH_DISTANCE));
    prefetch_to_l2(address.wrapping_add(L2_PREFETCH_DISTANCE));
}

/// An operation on the elements of one chunk. `apply` must be `#[inline(always)]`.
pub(crate) trait ChunkOp<I: Isa> {
    /// # Safety
    /// The chunk lies within every stream that the operation loads from or stores to.
    unsafe fn apply<const FULL: bool>(&mut self, chunk: Chunk<I, FULL>);
}

/// Applies an operation to the elements of a range.
///
/// # Safety
/// The range lies within every stream that the operation loads from or stores to.
#[inline(always)]
pub(crate) unsafe fn for_each_chunk<I: Isa>(isa: I, range: Range<usize>, op: &mut impl ChunkOp<I>) {
    let mut start = range.start;
    let chunks_end = range.end - (range.end - range.start) % (2 * I::LANES);
    while start < chunks_end {
        // SAFETY: only full chunks remain before `chunks_end`, which is within the range.
        unsafe { op.apply(Chunk::full(isa, start)) };
        start += 2 * I::LANES;
    }
    if start < range.end {
        // SAFETY: the chunk ends at the end of the range.
        unsafe { op.apply(Chunk::partial(isa, start, range.end - start)) };
    }
}

/// The consecutive elements of one iteration: two full vectors from element `start`, or fewer elements in the tail.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<I: Isa, const FULL: bool> {
    pub(crate) isa: I,
    start: usize,
    len: usize,
}

impl<I: Isa> Chunk<I, true> {
    /// Creates a chunk of two full vectors.
    #[inline(always)]
    pub(crate) fn full(isa: I, start: usize) -> Self {
        Chunk { isa, start, len: 2 * I::LANES }
    }
}

impl<I: Isa> Chunk<I, false> {
    /// Creates a chunk of at most two vectors.
    #[inline(always)]
    pub(crate) fn partial(isa: I, start: usize, len: usize) -> Self {
        Chunk { isa, start, len: len.min(2 * I::LANES) }
    }
}

impl<I: Isa, const FULL: bool> Chunk<I, FULL> {
    /// Loads the chunk's elements of a tensor. Lanes beyond the chunk are zero. For `split` see [`LaneCodec::SPLITS`].
    ///
    /// # Safety
    /// The chunk's elements of the tensor are readable.
    #[inline(always)]
    pub(crate) unsafe fn load<T: LaneCodec>(self, tensor: T::Pointers, split: bool) -> Pair<I> {
        // SAFETY: by this function's contract.
        unsafe { T::load(self, tensor, split) }
    }

    /// Stores the chunk's elements. Lanes beyond the chunk are ignored.
    ///
    /// # Safety
    /// The chunk's elements of the tensor are writable.
    #[inline(always)]
    pub(crate) unsafe fn store<T: LaneCodec>(self, tensor: T::Pointers, split: bool, value: Pair<I>) {
        // SAFETY: by this function's contract.
        unsafe { T::store(self, tensor, split, value) }
    }

    /// Returns the index of the chunk's first element in the variable; `first` is the index of the tensors' first
    /// element.
    #[inline(always)]
    pub(crate) fn index(self, first: u64) -> u64 {
        first.wrapping_add(self.start as u64)
    }

    /// Divides gradients by the loss scale and averages them with the accumulator. Does not clip.
    ///
    /// # Safety
    /// If the transform averages, the chunk lies within the accumulator.
    #[inline(always)]
    pub(crate) unsafe fn averaged(
        self,
        ops: &GradientOps<I>,
        gradient: Pair<I>,
        accumulator: *mut f32,
    ) -> Pair<I> {
        let g = both!(i => ops.unscaled(gradient[i]));
        if !ops.averages() {
            return g;
        }
        // SAFETY: the transform averages, so the chunk lies within the accumulator.
        let sum = unsafe { self.load::<f32>(accumulator, false) };
        both!(i => ops.averaged(g[i], sum[i]))
    }

    /// Clears the lanes beyond the chunk. Requires the order of the elements, not the split order.
    #[inline(always)]
    pub(crate) fn cleared(self, value: Pair<I>) -> Pair<I> {
        if FULL {
            return value;
        }
        both!(i => {
            let lanes = self.isa.add_u32(self.isa.lane_numbers(), self.isa.splat_u32((i * I::LANES) as u32));
            let within = self.isa.less_u31(lanes, self.isa.splat_u32(self.len as u32));
            let kept = self.isa.select(within, self.isa.to_bits(value[i]), self.isa.splat_u32(0));
            self.isa.from_bits(kept)
        })
    }

    /// Prefetches a stream's cache lines of later chunks.
    #[inline(always)]
    pub(crate) fn prefetch<E>(self, stream: *mut E) {
        let first = stream.wrapping_add(self.start).addr();
        let mut line = 0;
        while line < 2 * I::LANES * size_of::<E>() {
            prefetch_after(first.wrapping_add(line));
            line += LINE;
        }
    }

    /// Returns the chunk's extent in a stream with one entry per element, and the address of its first entry.
    #[inline(always)]
    pub(crate) fn within<E>(self, stream: *mut E) -> (Extent<I, FULL>, *mut E) {
        let extent = Extent { isa: self.isa, bytes: self.len * size_of::<E>() };
        (extent, stream.wrapping_add(self.start))
    }
}

/// A chunk's extent in one stream, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Extent<I: Isa, const FULL: bool> {
    pub(crate) isa: I,
    bytes: usize,
}

impl<I: Isa, const FULL: bool> Extent<I, FULL> {
    /// Returns the number of bytes of vector `index` within the extent.
    #[inline(always)]
    fn within<V>(self, index: usize) -> usize {
        self.bytes.saturating_sub(index * size_of::<V>()).min(size_of::<V>())
    }

    /// Loads vector `index` from `start`.
    ///
    /// # Safety
    /// The extent's bytes are readable from `start`. If `FULL`, the vector lies within them.
    #[inline(always)]
    pub(crate) unsafe fn read<V: Copy>(self, start: *const V, index: usize) -> V {
        let from = start.wrapping_add(index);
        // SAFETY: by the contract, or because only bytes within the extent are read.
        unsafe {
            if FULL { self.isa.load(from) } else { self.isa.load_partial(from, self.within::<V>(index)) }
        }
    }

    /// Stores vector `index` from `start`.
    ///
    /// # Safety
    /// The extent's bytes are writable from `start`. If `FULL`, the vector lies within them.
    #[inline(always)]
    pub(crate) unsafe fn write<V: Copy>(self, start: *mut V, index: usize, value: V) {
        let to = start.wrapping_add(index);
        // SAFETY: by the contract, or because only bytes within the extent are written.
        unsafe {
            if FULL {
                self.isa.store(to, value)
            } else {
                self.isa.store_partial(to, self.within::<V>(index), value)
            }
        }
    }
}

/// Evaluates an expression for both vectors of a chunk: `both!(i => expression)` with `i` 0 and 1. This is a macro,
/// because the compiler need not inline a closure.
macro_rules! both {
    ($i:ident => $value:expr) => {
        [
            {
                let $i = 0;
                $value
            },
            {
                let $i = 1;
                $value
            },
        ]
    };
}
pub(crate) use both;
