//! The loop under every kernel: a range of elements, a block of two vectors at a time.
//!
//! The elements that do not fill a block go through the same code with [`Window`] doing their loads and stores by
//! way of a block on the stack. So each operation is written once, no element past the end is touched, and a
//! result cannot depend on where in a tensor an element lies.

use core::ops::Range;

use crate::element::{Pair, Storage};
use crate::isa::Isa;

/// The most elements in a block, whatever the instruction set.
const MAX_BLOCK: usize = 32;

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
    let block = 2 * I::LANES;
    let mut start = range.start;
    while range.end - start >= block {
        // SAFETY: a whole block is left before the end of the range.
        unsafe { visitor.visit(Window::whole(isa, start)) };
        start += block;
    }
    if start < range.end {
        // SAFETY: the window ends where the range ends.
        unsafe { visitor.visit(Window::part(isa, start, range.end - start)) };
    }
}

/// Where in its streams a visitor is: `len` elements from `start`, a whole block or less than one.
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
    /// The window's elements of a stream; lanes beyond the window are zero. With `split` in the order of
    /// [`Storage::load_split`].
    ///
    /// # Safety
    /// The window's elements of the stream are readable.
    #[inline(always)]
    pub(crate) unsafe fn load<T: Storage>(self, stream: *const T, split: bool) -> Pair<I> {
        if WHOLE {
            // SAFETY: the window is a whole block, which the caller says is there.
            return unsafe { load(self.isa, stream.add(self.start), split) };
        }
        let mut staged = [T::default(); MAX_BLOCK];
        // SAFETY: `len` elements are readable by the contract, and fewer than a block, which the stack holds.
        unsafe {
            core::ptr::copy_nonoverlapping(stream.add(self.start), staged.as_mut_ptr(), self.len);
            load(self.isa, staged.as_ptr(), split)
        }
    }

    /// Stores the window's elements; lanes beyond the window are dropped.
    ///
    /// # Safety
    /// The window's elements of the stream are writable.
    #[inline(always)]
    pub(crate) unsafe fn store<T: Storage>(self, stream: *mut T, split: bool, value: Pair<I>) {
        if WHOLE {
            // SAFETY: the window is a whole block, which the caller says is there.
            return unsafe { store(self.isa, stream.add(self.start), split, value) };
        }
        let mut staged = [T::default(); MAX_BLOCK];
        // SAFETY: the stack holds a whole block; `len` elements of the stream are writable by the contract.
        unsafe {
            store(self.isa, staged.as_mut_ptr(), split, value);
            core::ptr::copy_nonoverlapping(staged.as_ptr(), stream.add(self.start), self.len);
        }
    }
}

#[inline(always)]
unsafe fn load<I: Isa, T: Storage>(isa: I, from: *const T, split: bool) -> Pair<I> {
    // SAFETY: the callers have a whole block at `from`.
    unsafe {
        match split {
            true => T::load_split(isa, from),
            false => [T::load(isa, from), T::load(isa, from.add(I::LANES))],
        }
    }
}

#[inline(always)]
unsafe fn store<I: Isa, T: Storage>(isa: I, to: *mut T, split: bool, value: Pair<I>) {
    // SAFETY: the callers have a whole block at `to`.
    unsafe {
        match split {
            true => T::store_split(isa, to, value),
            false => {
                T::store(isa, to, value[0]);
                T::store(isa, to.add(I::LANES), value[1]);
            }
        }
    }
}

/// Applies `f` to both vectors of a block.
#[inline(always)]
pub(crate) fn both<R>(f: impl Fn(usize) -> R) -> [R; 2] {
    [f(0), f(1)]
}
