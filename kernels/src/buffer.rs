//! Memory for tensors: aligned, zeroed, and on huge pages if it is large.
//!
//! The alignment depends on the size:
//!
//! - Every buffer starts at a multiple of 64 bytes, the length of a cache line and of the longest vector.
//! - A buffer of 4 KiB or more starts at a multiple of 4 KiB. Processors compare the low 12 bits of a load's address
//!   with those of earlier stores. Buffers a little more than 4 KiB apart would make loads wait for stores to other
//!   tensors.
//! - A buffer of 2 MiB or more starts at a multiple of 2 MiB, and requests huge pages before it is first touched. A
//!   step streams through its tensors, and on 4 KiB pages the address translation costs as much as the data.
//!
//! [`AlignedBuffer`] and [`TensorBuf`] hold one tensor, an [`Arena`] holds many. [`advise_huge_pages`] requests huge
//! pages for memory that a framework owns.

mod arena;
mod memory;
mod pages;

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

pub use self::arena::{Arena, TensorsMut};
use self::memory::Allocation;
pub use self::pages::{HugePages, advise_huge_pages, advise_huge_pages_at};
use crate::error::Error;
use crate::format::{Dtype, Element, MAX_STREAMS};
use crate::tensor::{TensorMut, TensorRef};

pub(crate) const LINE: usize = 64;
const PAGE: usize = 4 << 10;
const HUGE_PAGE: usize = 2 << 20;

/// A fixed number of elements of one type, initially zero.
///
/// ```
/// use half::bf16;
/// use lion_kernels::AlignedBuffer;
///
/// let momentum = AlignedBuffer::<bf16>::zeroed(1000)?;
/// assert_eq!(momentum.len(), 1000);
/// assert_eq!(momentum.as_ptr() as usize % 64, 0);
/// # Ok::<(), lion_kernels::Error>(())
/// ```
pub struct AlignedBuffer<T: Element> {
    memory: Allocation,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: Element> AlignedBuffer<T> {
    /// Allocates `len` zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the allocation fails.
    pub fn zeroed(len: usize) -> Result<Self, Error> {
        Self::allocated(len).ok_or(Error::OutOfMemory { elements: len, dtype: T::DTYPE })
    }

    fn allocated(len: usize) -> Option<Self> {
        let mut memory = Allocation::zeroed(len.checked_mul(size_of::<T>())?)?;
        memory.advise(true);
        Some(AlignedBuffer { memory, len, elements: PhantomData })
    }
}

impl<T: Element> Deref for AlignedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the memory holds `len` initialised elements at a multiple of 64 bytes.
        unsafe { core::slice::from_raw_parts(self.memory.start().as_ptr().cast(), self.len) }
    }
}

impl<T: Element> DerefMut for AlignedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; the borrow is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.memory.start().as_ptr().cast(), self.len) }
    }
}

/// # Panics
/// Aborts the process if the allocation fails, as `Vec::clone` does.
impl<T: Element> Clone for AlignedBuffer<T> {
    fn clone(&self) -> Self {
        match Self::zeroed(self.len) {
            Ok(mut copy) => {
                copy.copy_from_slice(self);
                copy
            }
            Err(_) => Allocation::abort_out_of_memory(self.memory.size()),
        }
    }
}

impl<T: Element> core::fmt::Debug for AlignedBuffer<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("AlignedBuffer")
            .field("dtype", &T::DTYPE)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl<'a, T: Element> From<&'a AlignedBuffer<T>> for TensorRef<'a> {
    fn from(buffer: &'a AlignedBuffer<T>) -> Self {
        buffer[..].into()
    }
}

impl<'a, T: Element> From<&'a mut AlignedBuffer<T>> for TensorMut<'a> {
    fn from(buffer: &'a mut AlignedBuffer<T>) -> Self {
        (&mut buffer[..]).into()
    }
}

/// An owned tensor of any format, initially zero.
pub struct TensorBuf {
    memory: Allocation,
    dtype: Dtype,
    len: usize,
    offsets: [usize; MAX_STREAMS],
}

impl TensorBuf {
    /// Allocates a tensor of `len` zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the allocation fails.
    pub fn zeroed(dtype: Dtype, len: usize) -> Result<Self, Error> {
        let allocated = || {
            let (offsets, bytes) = dtype.stream_offsets(len)?;
            let mut memory = Allocation::zeroed(bytes)?;
            memory.advise(true);
            Some(TensorBuf { memory, dtype, len, offsets })
        };
        allocated().ok_or(Error::OutOfMemory { elements: len, dtype })
    }

    /// Returns the format.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Borrows the tensor.
    pub fn to_ref(&self) -> TensorRef<'_> {
        let streams = self.streams().map(<*mut u8>::cast_const);
        // SAFETY: the streams lie within the memory, at multiples of 64 bytes, and hold initialised entries.
        unsafe { TensorRef::from_raw_parts(self.dtype, streams, self.len) }
    }

    /// Borrows the tensor mutably.
    pub fn to_mut(&mut self) -> TensorMut<'_> {
        // SAFETY: as in `to_ref`; the borrow is exclusive.
        unsafe { TensorMut::from_raw_parts(self.dtype, self.streams(), self.len) }
    }

    fn streams(&self) -> [*mut u8; MAX_STREAMS] {
        self.offsets.map(|offset| self.memory.start().as_ptr().wrapping_add(offset))
    }
}

/// # Panics
/// Aborts the process if the allocation fails, as `Vec::clone` does.
impl Clone for TensorBuf {
    fn clone(&self) -> Self {
        match Self::zeroed(self.dtype, self.len) {
            Ok(mut copy) => {
                let alike = copy.to_mut().copy_from(self.to_ref());
                debug_assert!(alike, "the copy has the same dtype and length");
                copy
            }
            Err(_) => Allocation::abort_out_of_memory(self.memory.size()),
        }
    }
}

impl core::fmt::Debug for TensorBuf {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TensorBuf")
            .field("dtype", &self.dtype)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
