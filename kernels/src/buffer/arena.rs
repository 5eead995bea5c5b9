//! Many tensors in one piece of memory, one behind the other.
//!
//! A step over thousands of small tensors costs what their bytes cost only if these lie together: then the processor
//! fetches on across the borders, and a few huge pages hold all of them. So the tensors are announced first, which
//! only moves the end of the arena, and the memory is committed to them when they are first dirty.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ptr::NonNull;

use super::LINE;
use super::memory::Allocation;
use crate::column::{TensorMut, TensorRef};
use crate::error::Error;
use crate::format::{Dtype, MAX_STREAMS};

/// Tensors of any formats in one allocation, on huge pages where it is large; zero at first.
///
/// Each starts at a multiple of 64 bytes. Tensors added after the first was dirty are as good as the others, but
/// adding them may copy the whole arena.
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
    /// Bytes up to the end of the last tensor.
    used: usize,
    places: Vec<TensorLayout>,
    /// Whether the memory is no longer than the tensors.
    committed: bool,
    /// Whether it may hold anything but zeros.
    dirty: bool,
    huge_pages: bool,
}

#[derive(Clone, Copy, Debug)]
struct TensorLayout {
    dtype: Dtype,
    /// Of each stream, from the start of the memory.
    offsets: [usize; MAX_STREAMS],
    len: usize,
}

impl TensorLayout {
    /// The starts of the streams in memory that starts here.
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
    /// No tensors.
    pub fn new() -> Self {
        Self::on(true)
    }

    /// No tensors, on the pages that the system gives unasked: to measure what huge pages are worth.
    pub fn without_huge_pages() -> Self {
        Self::on(false)
    }

    fn on(huge_pages: bool) -> Self {
        Arena {
            memory: Allocation::empty(),
            used: 0,
            places: Vec::new(),
            committed: false,
            dirty: false,
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
            let start = self.used.checked_next_multiple_of(LINE)?;
            let (offsets, bytes) = dtype.placed(len)?;
            let used = start.checked_add(bytes)?;
            Some((offsets.map(|offset| start + offset), used))
        };
        let (offsets, used) = ends().ok_or(failed.clone())?;
        if used > self.memory.size() {
            self.reserve(used).ok_or(failed)?;
        }
        self.used = used;
        self.places.push(TensorLayout { dtype, offsets, len });
        Ok(index)
    }

    /// Takes away all tensors but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        let Some(first) = self.places.get(len) else { return };
        let [start, ..] = first.offsets;
        let size = self.used - start;
        if self.dirty {
            // SAFETY: the bytes from the first tensor that goes to the end of the last lie within the memory.
            unsafe { self.memory.start().add(start).write_bytes(0, size) };
        }
        self.used = start;
        self.places.truncate(len);
    }

    /// Doubles at least, which takes no memory as long as it is not touched, and which [`Self::commit`] takes back.
    fn reserve(&mut self, needed: usize) -> Option<()> {
        let generous = needed.max(self.memory.size().saturating_mul(2)).max(Allocation::MIN_MAPPED);
        let mut grown = Allocation::zeroed(generous).or_else(|| Allocation::zeroed(needed))?;
        if self.dirty {
            grown.advise(self.huge_pages);
            // SAFETY: both are at least `used` bytes long, and no two pieces of memory overlap.
            unsafe { grown.start().copy_from_nonoverlapping(self.memory.start(), self.used) };
        }
        self.memory = grown;
        self.committed = false;
        Some(())
    }

    /// Fits the memory to the tensors, before it is dirty.
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

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The tensor at an index.
    pub fn tensor(&self, index: usize) -> Option<TensorRef<'_>> {
        let place = self.places.get(index)?;
        // SAFETY: the place lies within the memory, at a multiple of 64 bytes, and holds initialised elements of its
        // format, zeros or what was dirty.
        Some(unsafe {
            TensorRef::from_raw_parts(
                place.dtype,
                place.streams(self.memory.start()).map(<*mut u8>::cast_const),
                place.len,
            )
        })
    }

    /// The tensor at an index, for writing.
    #[inline]
    pub fn tensor_mut(&mut self, index: usize) -> Option<TensorMut<'_>> {
        self.tensors_mut().nth(index)
    }

    /// All tensors for writing, in order.
    #[inline]
    pub fn tensors_mut(&mut self) -> TensorsMut<'_> {
        self.commit();
        TensorsMut { start: self.memory.start(), places: self.places.iter(), arena: PhantomData }
    }
}

/// The tensors of an [`Arena`], for writing.
#[derive(Debug)]
pub struct TensorsMut<'a> {
    start: NonNull<u8>,
    places: core::slice::Iter<'a, TensorLayout>,
    arena: PhantomData<&'a mut Arena>,
}

// SAFETY: it stands for an exclusive borrow of an arena, which is Send.
unsafe impl Send for TensorsMut<'_> {}
// SAFETY: a shared borrow of it gives access to no tensor.
unsafe impl Sync for TensorsMut<'_> {}

impl<'a> TensorsMut<'a> {
    #[inline]
    fn tensor(&self, place: &TensorLayout) -> TensorMut<'a> {
        // SAFETY: as in `Arena::tensor`. The arena is borrowed exclusively, places do not overlap, and each is taken
        // from the iterator once.
        unsafe { TensorMut::from_raw_parts(place.dtype, place.streams(self.start), place.len) }
    }
}

impl<'a> Iterator for TensorsMut<'a> {
    type Item = TensorMut<'a>;

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
        let Some(mut memory) = Allocation::zeroed(self.used) else {
            Allocation::abort_out_of_memory(self.used)
        };
        if self.dirty {
            memory.advise(self.huge_pages);
            // SAFETY: both are at least `used` bytes long, and no two pieces of memory overlap.
            unsafe { memory.start().copy_from_nonoverlapping(self.memory.start(), self.used) };
        }
        Arena {
            memory,
            used: self.used,
            places: self.places.clone(),
            committed: self.dirty,
            dirty: self.dirty,
            huge_pages: self.huge_pages,
        }
    }
}
