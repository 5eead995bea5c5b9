//! The loop under every kernel: a range of elements, a block of two vectors at a time.
//!
//! The last elements, which do not fill a block, go through the same code with [`Place`] reading and writing parts
//! of vectors. So each operation is written once, no element past the end is touched, and a result cannot depend
//! on where in a tensor an element lies.

use core::ops::Range;

use crate::element::{Pair, Storage};
use crate::isa::Isa;
use crate::isa::prefetch::prefetch;

/// Bytes from a window to the one that is prefetched.
const AHEAD: usize = 1024;

/// Bytes of a cache line.
const LINE: usize = 64;

/// The numbers of the lanes of two vectors, of as many as the longest have.
static LANE_NUMBERS: [u32; 32] = {
    let mut numbers = [0; 32];
    let mut lane = 0;
    while lane < numbers.len() {
        numbers[lane] = lane as u32;
        lane += 1;
    }
    numbers
};

/// What happens to the elements of one window. `visit` must be `#[inline(always)]`.
pub(crate) trait Visit<I: Isa> {
    /// # Safety
    /// The window's elements exist in every stream that the visitor loads from or stores to.
    unsafe fn visit<const WHOLE: bool>(&mut self, window: Window<I, WHOLE>);
}

/// Visits the elements of a range.
///
/// # Safety
/// They exist in every stream that the visitor loads from or stores to.
#[inline(always)]
pub(crate) unsafe fn sweep<I: Isa>(isa: I, range: Range<usize>, visitor: &mut impl Visit<I>) {
    let mut start = range.start;
    let blocks_end = range.end - (range.end - range.start) % (2 * I::LANES);
    while start < blocks_end {
        // SAFETY: whole blocks are left before `blocks_end`, which is within the range.
        unsafe { visitor.visit(Window::whole(isa, start)) };
        start += 2 * I::LANES;
    }
    if start < range.end {
        // SAFETY: the window ends where the range ends.
        unsafe { visitor.visit(Window::part(isa, start, range.end - start)) };
    }
}

/// Where in its streams a visitor is: a whole block from element `start`, or less than one.
#[derive(Clone, Copy)]
pub(crate) struct Window<I: Isa, const WHOLE: bool> {
    isa: I,
    start: usize,
    len: usize,
}

impl<I: Isa> Window<I, true> {
    /// A block.
    #[inline(always)]
    pub(crate) fn whole(isa: I, start: usize) -> Self {
        Window { isa, start, len: 2 * I::LANES }
    }
}

impl<I: Isa> Window<I, false> {
    /// At most a block.
    #[inline(always)]
    pub(crate) fn part(isa: I, start: usize, len: usize) -> Self {
        Window { isa, start, len: len.min(2 * I::LANES) }
    }
}

impl<I: Isa, const WHOLE: bool> Window<I, WHOLE> {
    /// The window's elements of a stream; lanes beyond the window hold a format's zero. For `split` see
    /// [`Storage::SPLITS`].
    ///
    /// # Safety
    /// The window's elements of the stream are readable.
    #[inline(always)]
    pub(crate) unsafe fn load<T: Storage>(self, stream: *const T, split: bool) -> Pair<I> {
        // SAFETY: `start` is within the stream, and what the place spans is readable, by the contract.
        unsafe { T::load(self.place::<T>(), stream.add(self.start), split) }
    }

    /// Stores the window's elements; lanes beyond the window are dropped.
    ///
    /// # Safety
    /// The window's elements of the stream are writable.
    #[inline(always)]
    pub(crate) unsafe fn store<T: Storage>(self, stream: *mut T, split: bool, value: Pair<I>) {
        // SAFETY: `start` is within the stream, and what the place spans is writable, by the contract.
        unsafe { T::store(self.place::<T>(), stream.add(self.start), split, value) }
    }

    /// Stores the window's elements, which have been rounded to the format; lanes beyond the window are dropped.
    ///
    /// # Safety
    /// The window's elements of the stream are writable.
    #[inline(always)]
    pub(crate) unsafe fn store_rounded<T: Storage>(self, stream: *mut T, value: Pair<I>) {
        // SAFETY: `start` is within the stream, and what the place spans is writable, by the contract.
        unsafe { T::store_rounded(self.place::<T>(), stream.add(self.start), value) }
    }

    /// The value of a window that was not split, with zeros once more in the lanes beyond it.
    #[inline(always)]
    pub(crate) fn cleared(self, value: Pair<I>) -> Pair<I> {
        if WHOLE {
            return value;
        }
        both!(i => {
            // SAFETY: the table has a number for each lane of two vectors of at most 16.
            let lanes = unsafe { self.isa.load(LANE_NUMBERS.as_ptr().add(i * I::LANES).cast::<I::U32>()) };
            let within = self.isa.less_u31(lanes, self.isa.splat_u32(self.len as u32));
            let kept = self.isa.select(within, self.isa.to_bits(value[i]), self.isa.splat_u32(0));
            self.isa.of_bits(kept)
        })
    }

    /// Asks for the stream's lines that a window [`AHEAD`] of this one will need.
    #[inline(always)]
    pub(crate) fn prefetch<T>(self, stream: *const T) {
        let first = stream.wrapping_add(self.start).addr().wrapping_add(AHEAD);
        let mut line = 0;
        while line < 2 * I::LANES * size_of::<T>() {
            prefetch(first.wrapping_add(line));
            line += LINE;
        }
    }

    #[inline(always)]
    fn place<T>(self) -> Place<I, WHOLE> {
        Place { isa: self.isa, bytes: self.len * size_of::<T>() }
    }
}

/// A window's extent in one stream, as bytes.
#[derive(Clone, Copy)]
pub(crate) struct Place<I: Isa, const WHOLE: bool> {
    pub(crate) isa: I,
    bytes: usize,
}

impl<I: Isa, const WHOLE: bool> Place<I, WHOLE> {
    /// Bytes of the vector `index` of type `V` that lie within the place.
    #[inline(always)]
    fn within<V>(self, index: usize) -> usize {
        self.bytes.saturating_sub(index * size_of::<V>()).min(size_of::<V>())
    }

    /// The vector `index` from `start`.
    ///
    /// # Safety
    /// The place's bytes are readable from `start`; where it is whole, the vector lies within them.
    #[inline(always)]
    pub(crate) unsafe fn read<V: Copy>(self, start: *const V, index: usize) -> V {
        let from = start.wrapping_add(index);
        // SAFETY: by the contract, or because only bytes within the place are read.
        unsafe { if WHOLE { self.isa.load(from) } else { self.isa.load_part(from, self.within::<V>(index)) } }
    }

    /// Writes the vector `index` from `start`.
    ///
    /// # Safety
    /// The place's bytes are writable from `start`; where it is whole, the vector lies within them.
    #[inline(always)]
    pub(crate) unsafe fn write<V: Copy>(self, start: *mut V, index: usize, value: V) {
        let to = start.wrapping_add(index);
        // SAFETY: by the contract, or because only bytes within the place are written.
        unsafe {
            if WHOLE {
                self.isa.store(to, value)
            } else {
                self.isa.store_part(to, self.within::<V>(index), value)
            }
        }
    }
}

/// An expression for both vectors of a block, `both!(i => expression)` with `i` 0 and 1. A macro, since the closure
/// that a function would take need not be inlined.
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
