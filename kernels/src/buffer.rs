//! Memory for state: aligned, zeroed, and on huge pages where it is large.
//!
//! A step streams through its tensors, and on ordinary pages the address translation costs as much as the data.
//! So a buffer starts at a multiple of 64 bytes, the length of a cache line and of the longest vector, and one of
//! 2 MiB or more starts at a multiple of 2 MiB and asks for huge pages before it is first touched.

use alloc::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use crate::Error;
use crate::element::Element;

const LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

/// A fixed number of elements, all zero at first.
///
/// ```
/// use half::bf16;
/// use lion_kernels::Buffer;
///
/// let momentum = Buffer::<bf16>::zeroed(1000)?;
/// assert_eq!(momentum.len(), 1000);
/// assert_eq!(momentum.as_ptr() as usize % 64, 0);
/// # Ok::<(), lion_kernels::Error>(())
/// ```
pub struct Buffer<T: Element> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: a buffer owns its elements, which are Send.
unsafe impl<T: Element> Send for Buffer<T> {}
// SAFETY: a shared buffer gives shared access to its elements, which are Sync.
unsafe impl<T: Element> Sync for Buffer<T> {}

impl<T: Element> Buffer<T> {
    /// `len` zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where the memory cannot be had.
    pub fn zeroed(len: usize) -> Result<Self, Error> {
        let failed = Error::OutOfMemory { elements: len, dtype: T::DTYPE };
        let Some(layout) = layout::<T>(len) else { return Err(failed) };
        if layout.size() == 0 {
            return Ok(Buffer { start: NonNull::dangling(), len });
        }
        // SAFETY: the layout's size is not zero.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { return Err(failed) };
        if layout.align() == HUGE_PAGE {
            advise_huge_pages(start, layout.size());
        }
        // SAFETY: the allocation has this size. This is its first touch, after the advice on purpose: asking the
        // allocator for zeros would touch it before.
        unsafe { start.write_bytes(0, layout.size()) };
        Ok(Buffer { start: start.cast(), len })
    }
}

/// The layout of `len` elements, in whole huge pages from one huge page up; `None` where no layout is that large.
fn layout<T>(len: usize) -> Option<Layout> {
    let size = len.checked_mul(size_of::<T>())?;
    let align = if size < HUGE_PAGE { LINE } else { HUGE_PAGE };
    Some(Layout::from_size_align(size, align).ok()?.pad_to_align())
}

#[cfg(all(target_os = "linux", feature = "std"))]
fn advise_huge_pages(start: NonNull<u8>, size: usize) {
    // SAFETY: the range is an allocation of the caller, and the advice changes no content. A kernel that refuses it
    // leaves the memory as it is, so the answer does not matter.
    unsafe { libc::madvise(start.as_ptr().cast(), size, libc::MADV_HUGEPAGE) };
}

#[cfg(not(all(target_os = "linux", feature = "std")))]
fn advise_huge_pages(_: NonNull<u8>, _: usize) {}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        match layout::<T>(self.len) {
            Some(layout) if layout.size() > 0 => {
                // SAFETY: `zeroed` allocated this with the layout of this length.
                unsafe { dealloc(self.start.as_ptr().cast(), layout) }
            }
            _ => {}
        }
    }
}

impl<T: Element> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised elements, or a dangling pointer and none; aligned to at least T.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Element> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; the borrow is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// # Panics
/// As `Vec::clone`, ends the process where the memory cannot be had.
impl<T: Element> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        match Self::zeroed(self.len) {
            Ok(mut copy) => {
                copy.copy_from_slice(self);
                copy
            }
            Err(_) => handle_alloc_error(layout::<T>(self.len).unwrap_or(Layout::new::<T>())),
        }
    }
}

impl<T: Element> core::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Buffer").field("dtype", &T::DTYPE).field("len", &self.len).finish_non_exhaustive()
    }
}
