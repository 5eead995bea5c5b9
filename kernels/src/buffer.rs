//! Memory for state: aligned, zeroed, and on huge pages where it is large.
//!
//! A step streams through its tensors, and on ordinary pages the address translation costs as much as the data.
//! So a buffer starts at a multiple of 64 bytes, the length of a cache line and of the longest vector, and one of
//! 2 MiB or more starts at a multiple of 2 MiB and asks for huge pages before it is first touched. One of 4 KiB or more
//! starts at a multiple of 4 KiB: processors compare the low 12 bits of a load's address with those of the stores before
//! it, and buffers a little more than 4 KiB apart would make loads wait for stores to other tensors. A [`Buffer`] is
//! one tensor, an [`Arena`] many; [`advise_huge_pages`] helps memory that others own.

mod arena;
mod memory;
mod pages;

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

pub use self::arena::{Arena, TensorsMut};
use self::memory::Memory;
pub use self::pages::{HugePages, advise_huge_pages};
use crate::Error;
use crate::element::Element;

const LINE: usize = 64;
const PAGE: usize = 4 << 10;
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
    memory: Memory,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    /// `len` zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where the memory cannot be had.
    pub fn zeroed(len: usize) -> Result<Self, Error> {
        Self::allocated(len).ok_or(Error::OutOfMemory { elements: len, dtype: T::DTYPE })
    }

    fn allocated(len: usize) -> Option<Self> {
        let mut memory = Memory::zeroed(len.checked_mul(size_of::<T>())?)?;
        memory.advise(true);
        Some(Buffer { memory, len, elements: PhantomData })
    }
}

impl<T: Element> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the memory holds `len` initialised elements at a multiple of 64 bytes.
        unsafe { core::slice::from_raw_parts(self.memory.start().as_ptr().cast(), self.len) }
    }
}

impl<T: Element> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; the borrow is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.memory.start().as_ptr().cast(), self.len) }
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
            Err(_) => Memory::give_up(self.memory.size()),
        }
    }
}

impl<T: Element> core::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Buffer").field("dtype", &T::DTYPE).field("len", &self.len).finish_non_exhaustive()
    }
}
