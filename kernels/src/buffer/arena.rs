//! An arena: many tensors in one allocation, one after the other.
//!
//! A step over thousands of small tensors runs at memory speed only if they are contiguous. The hardware prefetcher
//! then continues across tensor boundaries, and a few huge pages hold all of them. [`Arena::push`] only moves the end
//! of the arena. The first mutable access commits the memory: it trims the reservation and requests huge pages.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ptr::NonNull;

use super::LINE;
use super::memory::Allocation;
use crate::error::Error;
use crate::format::{Dtype, MAX_STREAMS};
use crate::tensor::{TensorMut, TensorRef};

/// Tensors of any formats in one allocation, initially zero, on huge pages if it is large.
///
/// Each tensor starts at a multiple of 64 bytes. Push all tensors before the first mutable access: a later push may
/// copy the whole arena.
///
/// ```
/// use lion_kernels::{Arena, Dtype};
///
/// let mut gradients = Arena::new();
/// let kernel = gradients.push(Dtype::F32, 64 * 128)?;
/// let bias = gradients.push(Dtype::BF16, 128)?;
/// for tensor in gradients.tensors_mut() {
///     if let Some(elements) = tensor.into_slice::<f32>() {
///         elements.fill(0.5);
///     }
/// }
/// assert_eq!(gradients.tensor(kernel).map(|tensor| tensor.len()), Some(8192));
/// assert_eq!(gradients.tensor(bias).map(|tensor| tensor.dtype()), Some(Dtype::BF16));
/// # Ok::<(), lion_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Arena {
    memory: Allocation,
    /// Bytes from the start to the end of the last tensor.
    used: usize,
    layouts: Vec<TensorLayout>,
    /// Whether the memory has been trimmed to the tensors.
    committed: bool,
    /// Whether the memory may hold anything but zeros.
    dirty: bool,
    huge_pages: bool,
}

#[derive(Clone, Copy, Debug)]
struct TensorLayout {
    dtype: Dtype,
    /// Byte offset of each stream from the start of the memory.
    offsets: [usize; MAX_STREAMS],
    len: usize,
}

impl TensorLayout {
    /// Returns the address of each stream, given the start of the memory.
    #[inline]
    fn streams(&self, start: NonNull<u8>) -> [*mut u8; MAX_STREAMS] {
        self.offsets.map(|offset| start.as_ptr().wrapping_add(offset))
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl Arena {
    /// Creates an arena without tensors.
    pub fn new() -> Self {
        Self::on(true)
    }

    /// Creates an arena without tensors that turns huge pages off, to measure their benefit.
    pub fn without_huge_pages() -> Self {
        Self::on(false)
    }

    fn on(huge_pages: bool) -> Self {
        Arena {
            memory: Allocation::empty(),
            used: 0,
            layouts: Vec::new(),
            committed: false,
            dirty: false,
            huge_pages,
        }
    }

    /// Adds a tensor of `len` zeros and returns its index: the number of tensors before it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the allocation fails. The arena is then unchanged.
    pub fn push(&mut self, dtype: Dtype, len: usize) -> Result<usize, Error> {
        let failed = Error::OutOfMemory { elements: len, dtype };
        self.layouts.try_reserve(1).map_err(|_| failed.clone())?;
        let index = self.layouts.len();
        let ends = || {
            let start = self.used.checked_next_multiple_of(LINE)?;
            let (offsets, bytes) = dtype.stream_offsets(len)?;
            let used = start.checked_add(bytes)?;
            Some((offsets.map(|offset| start + offset), used))
        };
        let (offsets, used) = ends().ok_or(failed.clone())?;
        if used > self.memory.size() {
            self.reserve(used).ok_or(failed)?;
        }
        self.used = used;
        self.layouts.push(TensorLayout { dtype, offsets, len });
        Ok(index)
    }

    /// Removes all tensors but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        let Some(first) = self.layouts.get(len) else { return };
        let [start, ..] = first.offsets;
        let size = self.used - start;
        if self.dirty {
            // SAFETY: the bytes from the first removed tensor to the end of the last lie within the memory.
            unsafe { self.memory.start().add(start).write_bytes(0, size) };
        }
        self.used = start;
        self.layouts.truncate(len);
    }

    /// Grows at least twofold. Untouched pages cost nothing; [`Self::commit`] releases them.
    fn reserve(&mut self, needed: usize) -> Option<()> {
        let generous = needed.max(self.memory.size().saturating_mul(2)).max(Allocation::MIN_MAPPED);
        let mut grown = Allocation::zeroed(generous).or_else(|| Allocation::zeroed(needed))?;
        if self.dirty {
            grown.advise(self.huge_pages);
            // SAFETY: both allocations are at least `used` bytes long, and no two allocations overlap.
            unsafe { grown.start().copy_from_nonoverlapping(self.memory.start(), self.used) };
        }
        self.memory = grown;
        self.committed = false;
        Some(())
    }

    /// Trims the memory to the tensors and requests huge pages, before the first write.
    #[inline]
    fn commit(&mut self) {
        if !self.committed {
            self.commit_pages();
        }
    }

    #[cold]
    fn commit_pages(&mut self) {
        self.memory.shrink(self.used);
        self.memory.advise(self.huge_pages);
        (self.committed, self.dirty) = (true, true);
    }

    /// Returns the number of tensors.
    pub fn len(&self) -> usize {
        self.layouts.len()
    }

    /// Returns whether the arena has no tensors.
    pub fn is_empty(&self) -> bool {
        self.layouts.is_empty()
    }

    /// Returns the tensor at an index.
    pub fn tensor(&self, index: usize) -> Option<TensorRef<'_>> {
        let layout = self.layouts.get(index)?;
        // SAFETY: the layout lies within the memory, at a multiple of 64 bytes, and holds initialised elements of its
        // format: zeros, or written values.
        Some(unsafe {
            TensorRef::from_raw_parts(
                layout.dtype,
                layout.streams(self.memory.start()).map(<*mut u8>::cast_const),
                layout.len,
            )
        })
    }

    /// Returns the tensor at an index, mutably.
    #[inline]
    pub fn tensor_mut(&mut self, index: usize) -> Option<TensorMut<'_>> {
        self.tensors_mut().nth(index)
    }

    /// Returns all tensors mutably, in order.
    #[inline]
    pub fn tensors_mut(&mut self) -> TensorsMut<'_> {
        self.commit();
        TensorsMut { start: self.memory.start(), layouts: self.layouts.iter(), arena: PhantomData }
    }
}

/// An iterator over the tensors of an [`Arena`], mutably.
#[derive(Debug)]
pub struct TensorsMut<'a> {
    start: NonNull<u8>,
    layouts: core::slice::Iter<'a, TensorLayout>,
    arena: PhantomData<&'a mut Arena>,
}

// SAFETY: the iterator acts as an exclusive borrow of an arena, which is Send.
unsafe impl Send for TensorsMut<'_> {}
// SAFETY: a shared borrow of the iterator gives access to no tensor.
unsafe impl Sync for TensorsMut<'_> {}

impl<'a> TensorsMut<'a> {
    #[inline]
    fn tensor(&self, layout: &TensorLayout) -> TensorMut<'a> {
        // SAFETY: as in `Arena::tensor`. The arena is borrowed exclusively, layouts do not overlap, and the iterator
        // yields each once.
        unsafe { TensorMut::from_raw_parts(layout.dtype, layout.streams(self.start), layout.len) }
    }
}

impl<'a> Iterator for TensorsMut<'a> {
    type Item = TensorMut<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let layout = self.layouts.next()?;
        Some(self.tensor(layout))
    }

    #[inline]
    fn nth(&mut self, skipped: usize) -> Option<Self::Item> {
        let layout = self.layouts.nth(skipped)?;
        Some(self.tensor(layout))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.layouts.size_hint()
    }
}

impl ExactSizeIterator for TensorsMut<'_> {}

/// # Panics
/// Aborts the process if the allocation fails, as `Vec::clone` does.
impl Clone for Arena {
    fn clone(&self) -> Self {
        let Some(mut memory) = Allocation::zeroed(self.used) else {
            Allocation::abort_out_of_memory(self.used)
        };
        if self.dirty {
            memory.advise(self.huge_pages);
            // SAFETY: both allocations are at least `used` bytes long, and no two allocations overlap.
            unsafe { memory.start().copy_from_nonoverlapping(self.memory.start(), self.used) };
        }
        Arena {
            memory,
            used: self.used,
            layouts: self.layouts.clone(),
            committed: self.dirty,
            dirty: self.dirty,
            huge_pages: self.huge_pages,
        }
    }
}
