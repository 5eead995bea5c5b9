//! Many tensors in one piece of memory, one behind the other.
//!
//! A step over thousands of small tensors costs what their bytes cost only if these lie together: then the processor
//! fetches on across the borders, and a few huge pages hold all of them. So the tensors are announced first, which
//! only moves the end of the arena, and the memory is fitted to them when they are first written.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ptr::NonNull;

use super::LINE;
use super::memory::Memory;
use crate::Error;
use crate::element::{Dtype, Slice, SliceMut};

/// Tensors of any formats in one allocation, on huge pages where it is large; zero at first.
///
/// Each starts at a multiple of 64 bytes. Tensors added after the first was written are as good as the others, but
/// adding them may copy the whole arena.
///
/// ```
/// use lion_kernels::{Arena, Dtype, SliceMut};
///
/// let mut gradients = Arena::new();
/// let kernel = gradients.push(Dtype::F32, 64 * 128)?;
/// let bias = gradients.push(Dtype::BF16, 128)?;
/// for tensor in gradients.tensors_mut() {
///     if let SliceMut::F32(elements) = tensor {
///         elements.fill(0.5);
///     }
/// }
/// assert_eq!(gradients.tensor(kernel).map(|tensor| tensor.len()), Some(8192));
/// assert_eq!(gradients.tensor(bias).map(|tensor| tensor.dtype()), Some(Dtype::BF16));
/// # Ok::<(), lion_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Arena {
    memory: Memory,
    /// Bytes up to the end of the last tensor.
    used: usize,
    places: Vec<Place>,
    /// Whether the memory is no longer than the tensors.
    fitted: bool,
    /// Whether it may hold anything but zeros.
    written: bool,
    huge_pages: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    dtype: Dtype,
    offset: usize,
    len: usize,
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl Arena {
    /// No tensors.
    pub fn new() -> Self {
        Self::on(true)
    }

    /// No tensors, on the pages that the system gives unasked: to measure what huge pages are worth.
    pub fn on_ordinary_pages() -> Self {
        Self::on(false)
    }

    fn on(huge_pages: bool) -> Self {
        Arena {
            memory: Memory::empty(),
            used: 0,
            places: Vec::new(),
            fitted: false,
            written: false,
            huge_pages,
        }
    }

    /// Adds a tensor of `len` zeros, and gives its index: the number of tensors before it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where the memory cannot be had; the arena is then as it was.
    pub fn push(&mut self, dtype: Dtype, len: usize) -> Result<usize, Error> {
        let failed = Error::OutOfMemory { elements: len, dtype };
        self.places.try_reserve(1).map_err(|_| failed.clone())?;
        let index = self.places.len();
        let ends = || {
            let offset = self.used.checked_next_multiple_of(LINE)?;
            Some((offset, offset.checked_add(len.checked_mul(dtype.size())?)?))
        };
        let (offset, used) = ends().ok_or(failed.clone())?;
        if used > self.memory.size() {
            self.grow(used).ok_or(failed)?;
        }
        self.used = used;
        self.places.push(Place { dtype, offset, len });
        Ok(index)
    }

    /// Takes away all tensors but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        let Some(first) = self.places.get(len) else { return };
        let size = self.used - first.offset;
        if self.written {
            // SAFETY: the bytes from the first tensor that goes to the end of the last lie within the memory.
            unsafe { self.memory.start().add(first.offset).write_bytes(0, size) };
        }
        self.used = first.offset;
        self.places.truncate(len);
    }

    /// Doubles at least, which takes no memory as long as it is not touched, and which [`Self::settle`] takes back.
    fn grow(&mut self, needed: usize) -> Option<()> {
        let generous = needed.max(self.memory.size().saturating_mul(2)).max(Memory::LEAST_MAPPED);
        let mut grown = Memory::zeroed(generous).or_else(|| Memory::zeroed(needed))?;
        if self.written {
            grown.advise(self.huge_pages);
            // SAFETY: both are at least `used` bytes long, and no two pieces of memory overlap.
            unsafe { grown.start().copy_from_nonoverlapping(self.memory.start(), self.used) };
        }
        self.memory = grown;
        self.fitted = false;
        Some(())
    }

    /// Fits the memory to the tensors, before it is written.
    #[inline]
    fn settle(&mut self) {
        if !self.fitted {
            self.fit();
        }
    }

    #[cold]
    fn fit(&mut self) {
        self.memory.shrink(self.used);
        self.memory.advise(self.huge_pages);
        (self.fitted, self.written) = (true, true);
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The tensor at an index.
    pub fn tensor(&self, index: usize) -> Option<Slice<'_>> {
        let place = self.places.get(index)?;
        // SAFETY: the place lies within the memory, at a multiple of 64 bytes, and holds initialised elements of its
        // format, zeros or what was written.
        Some(unsafe { Slice::from_raw(place.dtype, self.memory.start().add(place.offset), place.len) })
    }

    /// The tensor at an index, for writing.
    #[inline]
    pub fn tensor_mut(&mut self, index: usize) -> Option<SliceMut<'_>> {
        self.tensors_mut().nth(index)
    }

    /// All tensors for writing, in order.
    #[inline]
    pub fn tensors_mut(&mut self) -> TensorsMut<'_> {
        self.settle();
        TensorsMut { start: self.memory.start(), places: self.places.iter(), arena: PhantomData }
    }
}

/// The tensors of an [`Arena`], for writing.
#[derive(Debug)]
pub struct TensorsMut<'a> {
    start: NonNull<u8>,
    places: core::slice::Iter<'a, Place>,
    arena: PhantomData<&'a mut Arena>,
}

// SAFETY: it stands for an exclusive borrow of an arena, which is Send.
unsafe impl Send for TensorsMut<'_> {}
// SAFETY: a shared borrow of it gives access to no tensor.
unsafe impl Sync for TensorsMut<'_> {}

impl<'a> TensorsMut<'a> {
    #[inline]
    fn tensor(&self, place: &Place) -> SliceMut<'a> {
        // SAFETY: as in `Arena::tensor`. The arena is borrowed exclusively, places do not overlap, and each is taken
        // from the iterator once.
        unsafe { SliceMut::from_raw(place.dtype, self.start.add(place.offset), place.len) }
    }
}

impl<'a> Iterator for TensorsMut<'a> {
    type Item = SliceMut<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let place = self.places.next()?;
        Some(self.tensor(place))
    }

    #[inline]
    fn nth(&mut self, skipped: usize) -> Option<Self::Item> {
        let place = self.places.nth(skipped)?;
        Some(self.tensor(place))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.places.size_hint()
    }
}

impl ExactSizeIterator for TensorsMut<'_> {}

/// # Panics
/// As `Vec::clone`, ends the process where the memory cannot be had.
impl Clone for Arena {
    fn clone(&self) -> Self {
        let Some(mut memory) = Memory::zeroed(self.used) else { Memory::give_up(self.used) };
        if self.written {
            memory.advise(self.huge_pages);
            // SAFETY: both are at least `used` bytes long, and no two pieces of memory overlap.
            unsafe { memory.start().copy_from_nonoverlapping(self.memory.start(), self.used) };
        }
        Arena {
            memory,
            used: self.used,
            places: self.places.clone(),
            fitted: self.written,
            written: self.written,
            huge_pages: self.huge_pages,
        }
    }
}
