//! Borrowed tensors of any format: [`TensorRef`] for reading, [`TensorMut`] for writing. The dtype is known at run
//! time.
//!
//! Each holds a dtype, a length, and one address per stream of the format. It borrows the memory as a slice does: the
//! borrow checker keeps mutable tensors disjoint, and constructors check the length once. Only the engine dereferences
//! the addresses. `from_raw_parts` accepts memory that Rust does not own, and never creates a reference to it.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::{null_mut, slice_from_raw_parts};
use core::slice::{from_raw_parts, from_raw_parts_mut};

use crate::error::{Error, check_length};
use crate::float_state::with_ieee_state;
use crate::format::{Dtype, Element, Format, Layout, MAX_STREAMS, with_format};
use crate::isa::scalar::Scalar;

/// A tensor's dtype, length and addresses, without a lifetime.
#[derive(Clone, Copy)]
pub(crate) struct RawTensor {
    pub(crate) dtype: Dtype,
    pub(crate) len: usize,
    /// The address of each stream; null beyond the format's last.
    pub(crate) streams: [*mut u8; MAX_STREAMS],
}

impl RawTensor {
    const fn single_stream(dtype: Dtype, start: *mut u8, len: usize) -> Self {
        RawTensor { dtype, len, streams: [start, null_mut()] }
    }

    /// Checks that the range lies within the tensor and cuts no block of the format.
    fn check_range(&self, range: &Range<usize>) -> Result<(), Error> {
        let (start, end, len, dtype) = (range.start, range.end, self.len, self.dtype);
        if start > end || end > len {
            return Err(Error::Range { start, end, len });
        }
        let block = dtype.block();
        let cut = |at: usize| !at.is_multiple_of(block) && at != len;
        match (cut(start), cut(end)) {
            (false, false) => Ok(()),
            (true, _) => Err(Error::CutBlock { dtype, at: start, block }),
            (_, true) => Err(Error::CutBlock { dtype, at: end, block }),
        }
    }

    fn range(self, range: Range<usize>) -> Result<Self, Error> {
        self.check_range(&range)?;
        Ok(RawTensor {
            len: range.end - range.start,
            streams: offset_streams(self.dtype, self.streams, range.start),
            ..self
        })
    }

    /// Returns one stream as a tensor.
    fn stream(&self, index: usize) -> Option<Self> {
        let (start, stream) = (self.streams.get(index)?, self.dtype.streams().get(index)?);
        Some(RawTensor::single_stream(stream.dtype, *start, stream.entries(self.len)))
    }

    /// Combines two streams into a tensor of a two-stream format.
    fn from_streams(dtype: Dtype, first: Self, second: Self) -> Result<Self, Error> {
        let [a, b] = dtype.streams() else {
            return Err(Error::Streams { dtype, found: 2, expected: dtype.streams().len() });
        };
        for (tensor, stream, given) in [("first stream", a, &first), ("second stream", b, &second)] {
            if given.dtype != stream.dtype {
                return Err(Error::Format {
                    tensor,
                    found: given.dtype,
                    expected: stream.dtype.name().into(),
                });
            }
        }
        check_length("second stream", second.len, "first stream", b.entries(first.len))?;
        Ok(RawTensor { dtype, len: first.len, streams: [first.streams[0], second.streams[0]] })
    }

    /// Returns the bytes of a stream as a raw slice.
    fn stream_bytes(&self, stream: usize) -> Option<*const [u8]> {
        let (start, layout) = (self.streams.get(stream)?, self.dtype.streams().get(stream)?);
        Some(slice_from_raw_parts(start.cast_const(), layout.bytes_of(self.len)))
    }

    fn overlaps(&self, other: &Self) -> bool {
        let of = |raw: &Self| (0..MAX_STREAMS).filter_map(move |index| raw.stream_bytes(index)).collect_two();
        of(self).iter().flatten().any(|a| {
            of(other).iter().flatten().any(|b| {
                let (a_start, b_start) = (a.cast::<u8>().addr(), b.cast::<u8>().addr());
                a_start < b_start + b.len() && b_start < a_start + a.len()
            })
        })
    }
}

/// Collects at most two items of an iterator, without allocation.
trait CollectTwo: Iterator + Sized {
    fn collect_two(mut self) -> [Option<Self::Item>; MAX_STREAMS] {
        core::array::from_fn(|_| self.next())
    }
}
impl<I: Iterator> CollectTwo for I {}

/// Returns the stream addresses of the elements from `start` on. Requires that `start` begins a block.
#[inline(always)]
pub(crate) fn offset_streams(
    dtype: Dtype,
    mut streams: [*mut u8; MAX_STREAMS],
    start: usize,
) -> [*mut u8; MAX_STREAMS] {
    for (address, stream) in streams.iter_mut().zip(dtype.streams()) {
        // Because `start` begins a block, a whole number of entries precede it.
        *address = address.wrapping_add(stream.bytes_of(start));
    }
    streams
}

/// A borrowed, contiguous tensor of any format.
#[derive(Clone, Copy)]
pub struct TensorRef<'a> {
    pub(crate) raw: RawTensor,
    elements: PhantomData<&'a [u8]>,
}

/// A mutably borrowed, contiguous tensor of any format.
pub struct TensorMut<'a> {
    pub(crate) raw: RawTensor,
    elements: PhantomData<&'a mut [u8]>,
}

// SAFETY: a `TensorRef` acts as a shared borrow of plain numbers.
unsafe impl Send for TensorRef<'_> {}
// SAFETY: as above: a shared borrow of plain numbers.
unsafe impl Sync for TensorRef<'_> {}
// SAFETY: a `TensorMut` acts as an exclusive borrow of plain numbers.
unsafe impl Send for TensorMut<'_> {}
// SAFETY: a shared borrow of a `TensorMut` only reads.
unsafe impl Sync for TensorMut<'_> {}

impl<'a> TensorRef<'a> {
    /// Returns a tensor without elements.
    pub const fn empty(dtype: Dtype) -> Self {
        // SAFETY: a tensor without elements is never dereferenced. Address 64 is aligned for every format.
        unsafe { Self::from_raw_parts(dtype, [core::ptr::without_provenance(64); MAX_STREAMS], 0) }
    }

    /// Wraps memory that Rust does not own, without creating a reference to it. `streams` holds the start of each of
    /// the format's streams ([`Dtype::streams`]); formats with one stream ignore the second.
    ///
    /// # Safety
    /// While the tensor is used, each stream of `len` elements is readable, initialised and aligned for its entries,
    /// and nothing writes it, except a task whose parameter is the same memory.
    pub const unsafe fn from_raw_parts(dtype: Dtype, streams: [*const u8; MAX_STREAMS], len: usize) -> Self {
        let streams = [streams[0].cast_mut(), streams[1].cast_mut()];
        TensorRef { raw: RawTensor { dtype, len, streams }, elements: PhantomData }
    }

    /// Returns the format.
    #[inline]
    pub fn dtype(&self) -> Dtype {
        self.raw.dtype
    }

    /// Returns the number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        self.raw.len
    }

    /// Returns whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the elements, or `None` if `T` is not the tensor's element type.
    #[inline]
    pub fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
        // SAFETY: the tensor borrows such a slice, or the caller of `from_raw_parts` upholds the same.
        (T::DTYPE == self.dtype()).then(|| unsafe { from_raw_parts(self.raw.streams[0].cast(), self.len()) })
    }

    /// Returns one stream as a tensor, or `None` if the format has fewer streams.
    pub fn stream(&self, index: usize) -> Option<TensorRef<'a>> {
        Some(TensorRef { raw: self.raw.stream(index)?, ..*self })
    }

    /// Combines two streams into a tensor of a two-stream format.
    ///
    /// ```
    /// use half::bf16;
    /// use lion_kernels::{Dtype, TensorRef};
    ///
    /// let (high, low) = ([bf16::ONE; 3], [1_i16, 0, -1]);
    /// let split = TensorRef::from_streams(Dtype::Split, &high, &low)?;
    /// assert_eq!(split.to_f32(), [1.0 + f32::EPSILON, 1.0, 1.0 - f32::EPSILON / 2.0]);
    /// # Ok::<(), lion_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Streams`] if the format does not have two streams, [`Error::Format`] if a stream has the wrong dtype,
    /// [`Error::Length`] if the streams hold different numbers of elements.
    pub fn from_streams(
        dtype: Dtype,
        first: impl Into<TensorRef<'a>>,
        second: impl Into<TensorRef<'a>>,
    ) -> Result<Self, Error> {
        let raw = RawTensor::from_streams(dtype, first.into().raw, second.into().raw)?;
        Ok(TensorRef { raw, elements: PhantomData })
    }

    /// Returns the bytes of a stream in native byte order, or `None` if the format has fewer streams.
    pub fn as_bytes(&self, stream: usize) -> Option<&'a [u8]> {
        // SAFETY: as for `as_slice`. Numbers have no padding, so every byte is initialised.
        self.raw.stream_bytes(stream).map(|bytes| unsafe { &*bytes })
    }

    /// Returns the elements of a range.
    ///
    /// # Errors
    /// [`Error::Range`] if the range is not within the tensor, [`Error::CutBlock`] if it cuts a block of the format.
    pub fn range(self, range: Range<usize>) -> Result<Self, Error> {
        Ok(TensorRef { raw: self.raw.range(range)?, ..self })
    }

    /// Returns whether the tensor shares memory with another.
    pub fn overlaps(&self, other: TensorRef<'_>) -> bool {
        self.raw.overlaps(&other.raw)
    }

    /// Fills `to` with the values from element `start` on. Scalar and single-threaded: not for hot paths.
    ///
    /// # Errors
    /// The errors of [`range`](Self::range).
    pub fn read_f32(&self, start: usize, to: &mut [f32]) -> Result<(), Error> {
        let part = self.range(start..start.saturating_add(to.len()))?;
        with_format!(self.dtype(), F => {
            let [first, second] = part.raw.streams;
            // SAFETY: the borrow makes the streams readable, and the lengths are those of the streams of `part`.
            let (first, second) = unsafe { streams_of::<F>(first, second, part.len()) };
            with_ieee_state(|| F::decode(Scalar, first, second, to));
        });
        Ok(())
    }

    /// Returns the values in a new vector. Scalar and single-threaded: not for hot paths.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = alloc::vec![0.0; self.len()];
        let read = self.read_f32(0, &mut values);
        debug_assert_eq!(read, Ok(()), "the whole tensor is a valid range");
        values
    }
}

impl<'a> TensorMut<'a> {
    /// Returns a tensor without elements.
    pub const fn empty(dtype: Dtype) -> Self {
        // SAFETY: as in `TensorRef::empty`.
        unsafe { Self::from_raw_parts(dtype, [core::ptr::without_provenance_mut(64); MAX_STREAMS], 0) }
    }

    /// Wraps memory that Rust does not own, without creating a reference to it. `streams` holds the start of each of
    /// the format's streams ([`Dtype::streams`]); formats with one stream ignore the second.
    ///
    /// # Safety
    /// While the tensor is used, each stream of `len` elements is readable, writable, initialised and aligned for its
    /// entries, and nothing else reads or writes it.
    pub const unsafe fn from_raw_parts(dtype: Dtype, streams: [*mut u8; MAX_STREAMS], len: usize) -> Self {
        TensorMut { raw: RawTensor { dtype, len, streams }, elements: PhantomData }
    }

    /// Returns the format.
    #[inline]
    pub fn dtype(&self) -> Dtype {
        self.raw.dtype
    }

    /// Returns the number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        self.raw.len
    }

    /// Returns whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Borrows the tensor for reading.
    #[inline]
    pub fn to_ref(&self) -> TensorRef<'_> {
        TensorRef { raw: self.raw, elements: PhantomData }
    }

    /// Borrows the tensor mutably for a shorter lifetime.
    #[inline]
    pub fn reborrow(&mut self) -> TensorMut<'_> {
        TensorMut { raw: self.raw, elements: PhantomData }
    }

    /// Returns the elements, or `None` if `T` is not the tensor's element type.
    #[inline]
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        self.to_ref().as_slice()
    }

    /// Returns the elements mutably, or `None` if `T` is not the tensor's element type.
    #[inline]
    pub fn as_slice_mut<T: Element>(&mut self) -> Option<&mut [T]> {
        self.reborrow().into_slice()
    }

    /// Returns the elements mutably for the tensor's whole lifetime, or `None` if `T` is not its element type.
    #[inline]
    pub fn into_slice<T: Element>(self) -> Option<&'a mut [T]> {
        let (start, len) = (self.raw.streams[0], self.len());
        // SAFETY: as for `TensorRef::as_slice`; the borrow is exclusive and ends here.
        (T::DTYPE == self.dtype()).then(|| unsafe { from_raw_parts_mut(start.cast(), len) })
    }

    /// Returns one stream as a mutable tensor, or `None` if the format has fewer streams.
    pub fn stream_mut(&mut self, index: usize) -> Option<TensorMut<'_>> {
        Some(TensorMut { raw: self.raw.stream(index)?, elements: PhantomData })
    }

    /// Combines two streams into a tensor of a two-stream format, like [`TensorRef::from_streams`].
    ///
    /// # Errors
    /// The errors of [`TensorRef::from_streams`].
    pub fn from_streams(
        dtype: Dtype,
        first: impl Into<TensorMut<'a>>,
        second: impl Into<TensorMut<'a>>,
    ) -> Result<Self, Error> {
        let raw = RawTensor::from_streams(dtype, first.into().raw, second.into().raw)?;
        Ok(TensorMut { raw, elements: PhantomData })
    }

    /// Returns the bytes of a stream mutably, in native byte order, or `None` if the format has fewer streams. Every
    /// byte pattern is a valid entry.
    pub fn as_bytes_mut(&mut self, stream: usize) -> Option<&mut [u8]> {
        // SAFETY: as for `into_slice`. Every byte pattern is a valid entry.
        self.raw.stream_bytes(stream).map(|bytes| unsafe { &mut *bytes.cast_mut() })
    }

    /// Returns the elements of a range.
    ///
    /// # Errors
    /// [`Error::Range`] if the range is not within the tensor, [`Error::CutBlock`] if it cuts a block of the format.
    pub fn range(self, range: Range<usize>) -> Result<Self, Error> {
        Ok(TensorMut { raw: self.raw.range(range)?, ..self })
    }

    /// Splits the tensor into the elements before `at` and the elements from `at` on.
    ///
    /// # Errors
    /// The errors of [`range`](Self::range).
    pub fn split_at(self, at: usize) -> Result<(Self, Self), Error> {
        let (raw, elements) = (self.raw, self.elements);
        let part = |range| Ok(TensorMut { raw: raw.range(range)?, elements });
        // The two parts are disjoint, and `self` is consumed, so each element has one mutable borrow.
        Ok((part(0..at)?, part(at..raw.len)?))
    }

    /// Rounds the values to the format and stores them from element `start` on. Scalar and single-threaded: not for hot
    /// paths.
    ///
    /// # Errors
    /// The errors of [`range`](Self::range).
    pub fn write_f32(&mut self, start: usize, from: &[f32]) -> Result<(), Error> {
        let part = self.reborrow().range(start..start.saturating_add(from.len()))?;
        with_format!(part.dtype(), F => {
            let [first, second] = part.raw.streams;
            // SAFETY: the borrow makes the streams writable, and the lengths are those of the streams of `part`.
            let (first, second) = unsafe { streams_of_mut::<F>(first, second, part.len()) };
            with_ieee_state(|| F::encode(Scalar, from, first, second));
        });
        Ok(())
    }

    /// Copies the elements of a tensor of the same format and length. Returns false, and writes nothing, if format or
    /// length differ.
    #[must_use]
    pub fn copy_from(&mut self, other: TensorRef<'_>) -> bool {
        if (self.dtype(), self.len()) != (other.dtype(), other.len()) {
            return false;
        }
        for stream in 0..MAX_STREAMS {
            if let (Some(to), Some(from)) = (self.as_bytes_mut(stream), other.as_bytes(stream)) {
                to.copy_from_slice(from);
            }
        }
        true
    }
}

/// Returns the streams of `len` elements as slices.
///
/// # Safety
/// The streams are readable, initialised, aligned, and not written while the slices live.
#[inline(always)]
pub(crate) unsafe fn streams_of<'a, F: Layout>(
    first: *const u8,
    second: *const u8,
    len: usize,
) -> (&'a [F::First], &'a [F::Second]) {
    // SAFETY: by this function's contract. A missing second stream has no entries.
    unsafe { (from_raw_parts(first.cast(), entries::<F>(0, len)), second_stream::<F>(second, len)) }
}

/// Returns the streams of `len` elements as mutable slices.
///
/// # Safety
/// The contract of [`streams_of`], and nothing else reads or writes the streams while the slices live.
#[inline(always)]
pub(crate) unsafe fn streams_of_mut<'a, F: Layout>(
    first: *mut u8,
    second: *mut u8,
    len: usize,
) -> (&'a mut [F::First], &'a mut [F::Second]) {
    let second_entries = entries::<F>(1, len);
    // SAFETY: by this function's contract.
    unsafe {
        let second: &mut [F::Second] = match second_entries {
            0 => &mut [],
            entries => from_raw_parts_mut(second.cast(), entries),
        };
        (from_raw_parts_mut(first.cast(), entries::<F>(0, len)), second)
    }
}

/// # Safety
/// The contract of [`streams_of`].
#[inline(always)]
unsafe fn second_stream<'a, F: Layout>(start: *const u8, len: usize) -> &'a [F::Second] {
    match entries::<F>(1, len) {
        0 => &[],
        // SAFETY: by this function's contract.
        entries => unsafe { from_raw_parts(start.cast(), entries) },
    }
}

/// Returns the number of entries of a stream of `len` elements; 0 if the format does not have the stream.
#[inline(always)]
fn entries<F: Layout>(stream: usize, len: usize) -> usize {
    F::STREAMS.get(stream).map_or(0, |stream| stream.entries(len))
}

impl<'a, T: Element> From<&'a [T]> for TensorRef<'a> {
    #[inline]
    fn from(slice: &'a [T]) -> Self {
        let raw = RawTensor::single_stream(T::DTYPE, slice.as_ptr().cast_mut().cast(), slice.len());
        TensorRef { raw, elements: PhantomData }
    }
}

impl<'a, T: Element> From<&'a mut [T]> for TensorMut<'a> {
    #[inline]
    fn from(slice: &'a mut [T]) -> Self {
        let raw = RawTensor::single_stream(T::DTYPE, slice.as_mut_ptr().cast(), slice.len());
        TensorMut { raw, elements: PhantomData }
    }
}

impl<'a, T: Element> From<&'a Vec<T>> for TensorRef<'a> {
    #[inline]
    fn from(vec: &'a Vec<T>) -> Self {
        vec.as_slice().into()
    }
}

impl<'a, T: Element> From<&'a mut Vec<T>> for TensorMut<'a> {
    #[inline]
    fn from(vec: &'a mut Vec<T>) -> Self {
        vec.as_mut_slice().into()
    }
}

impl<'a, T: Element, const N: usize> From<&'a [T; N]> for TensorRef<'a> {
    #[inline]
    fn from(array: &'a [T; N]) -> Self {
        array.as_slice().into()
    }
}

impl<'a, T: Element, const N: usize> From<&'a mut [T; N]> for TensorMut<'a> {
    #[inline]
    fn from(array: &'a mut [T; N]) -> Self {
        array.as_mut_slice().into()
    }
}

impl<'a> From<TensorMut<'a>> for TensorRef<'a> {
    #[inline]
    fn from(tensor: TensorMut<'a>) -> Self {
        TensorRef { raw: tensor.raw, elements: PhantomData }
    }
}

impl core::fmt::Debug for TensorRef<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TensorRef")
            .field("dtype", &self.dtype())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl core::fmt::Debug for TensorMut<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TensorMut")
            .field("dtype", &self.dtype())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
