//! Borrowed tensors of any format, without their type: [`TensorRef`] to read, [`TensorMut`] to write.
//!
//! Each is a dtype, a length and an address for each of the format's streams. It borrows the memory as a slice would:
//! `&mut` gives disjointness, and a length is checked once, when the tensor is made. Only the engine reads the
//! addresses. Memory that Rust does not own comes in through `from_raw_parts`, which makes no reference to it.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::{null_mut, slice_from_raw_parts};
use core::slice::{from_raw_parts, from_raw_parts_mut};

use crate::error::{Error, same_length};
use crate::float_state::with_ieee_state;
use crate::format::{Dtype, Element, Format, Layout, MAX_STREAMS, with_format};
use crate::isa::scalar::Scalar;

/// A tensor without its type and its borrow.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    pub(crate) dtype: Dtype,
    pub(crate) len: usize,
    /// Null after the format's last stream.
    pub(crate) streams: [*mut u8; MAX_STREAMS],
}

impl Column {
    const fn of_one_stream(dtype: Dtype, start: *mut u8, len: usize) -> Self {
        Column { dtype, len, streams: [start, null_mut()] }
    }

    /// Whether elements from here on begin a block of the format.
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
        Ok(Column {
            len: range.end - range.start,
            streams: advanced(self.dtype, self.streams, range.start),
            ..self
        })
    }

    /// A stream as a tensor of its own.
    fn stream(&self, index: usize) -> Option<Self> {
        let (start, stream) = (self.streams.get(index)?, self.dtype.streams().get(index)?);
        Some(Column::of_one_stream(stream.dtype, *start, stream.entries(self.len)))
    }

    /// The tensor of a format whose streams are these.
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
        same_length("second stream", second.len, "first stream", b.entries(first.len))?;
        Ok(Column { dtype, len: first.len, streams: [first.streams[0], second.streams[0]] })
    }

    /// The bytes of a stream, as a slice that is not dereferenced here.
    fn bytes_of(&self, stream: usize) -> Option<*const [u8]> {
        let (start, layout) = (self.streams.get(stream)?, self.dtype.streams().get(stream)?);
        Some(slice_from_raw_parts(start.cast_const(), layout.bytes_of(self.len)))
    }

    fn overlaps(&self, other: &Self) -> bool {
        let of =
            |column: &Self| (0..MAX_STREAMS).filter_map(move |index| column.bytes_of(index)).collect_two();
        of(self).iter().flatten().any(|a| {
            of(other).iter().flatten().any(|b| {
                let (a_start, b_start) = (a.cast::<u8>().addr(), b.cast::<u8>().addr());
                a_start < b_start + b.len() && b_start < a_start + a.len()
            })
        })
    }
}

/// At most two items of an iterator, without memory of its own.
trait CollectTwo: Iterator + Sized {
    fn collect_two(mut self) -> [Option<Self::Item>; MAX_STREAMS] {
        core::array::from_fn(|_| self.next())
    }
}
impl<I: Iterator> CollectTwo for I {}

/// The addresses of a tensor's streams from the element `start` on, which begins a block.
#[inline(always)]
pub(crate) fn advanced(
    dtype: Dtype,
    mut streams: [*mut u8; MAX_STREAMS],
    start: usize,
) -> [*mut u8; MAX_STREAMS] {
    for (address, stream) in streams.iter_mut().zip(dtype.streams()) {
        // `start` begins a block, so the entries before it are whole.
        *address = address.wrapping_add(stream.bytes_of(start));
    }
    streams
}

/// A borrowed tensor of any format, as its elements in order.
#[derive(Clone, Copy)]
pub struct TensorRef<'a> {
    pub(crate) column: Column,
    elements: PhantomData<&'a [u8]>,
}

/// A mutably borrowed tensor of any format, as its elements in order.
pub struct TensorMut<'a> {
    pub(crate) column: Column,
    elements: PhantomData<&'a mut [u8]>,
}

// SAFETY: it stands for a shared borrow of plain numbers.
unsafe impl Send for TensorRef<'_> {}
// SAFETY: as above.
unsafe impl Sync for TensorRef<'_> {}
// SAFETY: it stands for an exclusive borrow of plain numbers.
unsafe impl Send for TensorMut<'_> {}
// SAFETY: a shared borrow of it only reads.
unsafe impl Sync for TensorMut<'_> {}

impl<'a> TensorRef<'a> {
    /// No elements.
    pub const fn empty(dtype: Dtype) -> Self {
        // SAFETY: of no elements none is read. A multiple of 64 is aligned for every format.
        unsafe { Self::from_raw_parts(dtype, [core::ptr::without_provenance(64); MAX_STREAMS], 0) }
    }

    /// A tensor in memory that Rust does not own. Makes no reference to it. `streams` are the starts of the format's
    /// arrays ([`Dtype::streams`]); a format of one stream ignores the second.
    ///
    /// # Safety
    /// While the tensor is used, each stream of `len` elements is readable and initialised, is aligned as its entries
    /// ask for, and is not written, but by a task that has the same memory as its parameter.
    pub const unsafe fn from_raw_parts(dtype: Dtype, streams: [*const u8; MAX_STREAMS], len: usize) -> Self {
        let streams = [streams[0].cast_mut(), streams[1].cast_mut()];
        TensorRef { column: Column { dtype, len, streams }, elements: PhantomData }
    }

    /// The format.
    #[inline]
    pub fn dtype(&self) -> Dtype {
        self.column.dtype
    }

    /// The number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        self.column.len
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements, if the tensor is of this format.
    #[inline]
    pub fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
        // SAFETY: the tensor was made of such a slice, or by the contract of `from_raw_parts`.
        (T::DTYPE == self.dtype())
            .then(|| unsafe { from_raw_parts(self.column.streams[0].cast(), self.len()) })
    }

    /// A stream as a tensor of its own; `None` if the format has fewer streams.
    pub fn stream(&self, index: usize) -> Option<TensorRef<'a>> {
        Some(TensorRef { column: self.column.stream(index)?, ..*self })
    }

    /// A tensor of a format of two streams, which are these.
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
    /// [`Error::Streams`] if the format has not two streams, [`Error::Format`] if a stream has another format,
    /// [`Error::Length`] if the second does not have the entries of as many elements as the first has.
    pub fn from_streams(
        dtype: Dtype,
        first: impl Into<TensorRef<'a>>,
        second: impl Into<TensorRef<'a>>,
    ) -> Result<Self, Error> {
        let column = Column::from_streams(dtype, first.into().column, second.into().column)?;
        Ok(TensorRef { column, elements: PhantomData })
    }

    /// The bytes of a stream, in the machine's byte order; `None` if the format has fewer streams.
    pub fn as_bytes(&self, stream: usize) -> Option<&'a [u8]> {
        // SAFETY: as for `as_slice`; every number is made of initialised bytes.
        self.column.bytes_of(stream).map(|bytes| unsafe { &*bytes })
    }

    /// The elements of a range.
    ///
    /// # Errors
    /// [`Error::Range`] if the range is not within the tensor, [`Error::CutBlock`] if it cuts a block of the format.
    pub fn range(self, range: Range<usize>) -> Result<Self, Error> {
        Ok(TensorRef { column: self.column.range(range)?, ..self })
    }

    /// Whether the tensor shares memory with another.
    pub fn overlaps(&self, other: TensorRef<'_>) -> bool {
        self.column.overlaps(&other.column)
    }

    /// The values from element `start` on, as many as `to` has places. One thread, plain Rust: for what is not hot.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn read_f32(&self, start: usize, to: &mut [f32]) -> Result<(), Error> {
        let part = self.range(start..start.saturating_add(to.len()))?;
        with_format!(self.dtype(), F => {
            let [first, second] = part.column.streams;
            // SAFETY: readable by this tensor's borrow; the lengths are those of the streams of `part`.
            let (first, second) = unsafe { streams_of::<F>(first, second, part.len()) };
            with_ieee_state(|| F::decode(Scalar, first, second, to));
        });
        Ok(())
    }

    /// The values, in memory of their own. One thread, plain Rust: for what is not hot.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = alloc::vec![0.0; self.len()];
        let read = self.read_f32(0, &mut values);
        debug_assert_eq!(read, Ok(()), "the whole tensor is a range of it");
        values
    }
}

impl<'a> TensorMut<'a> {
    /// No elements.
    pub const fn empty(dtype: Dtype) -> Self {
        // SAFETY: as in `TensorRef::empty`.
        unsafe { Self::from_raw_parts(dtype, [core::ptr::without_provenance_mut(64); MAX_STREAMS], 0) }
    }

    /// A tensor in memory that Rust does not own. Makes no reference to it. `streams` are the starts of the format's
    /// arrays ([`Dtype::streams`]); a format of one stream ignores the second.
    ///
    /// # Safety
    /// While the tensor is used, each stream of `len` elements is readable, writable and initialised, is aligned as its
    /// entries ask for, and nothing else reads or writes it.
    pub const unsafe fn from_raw_parts(dtype: Dtype, streams: [*mut u8; MAX_STREAMS], len: usize) -> Self {
        TensorMut { column: Column { dtype, len, streams }, elements: PhantomData }
    }

    /// The format.
    #[inline]
    pub fn dtype(&self) -> Dtype {
        self.column.dtype
    }

    /// The number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        self.column.len
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same tensor, to read.
    #[inline]
    pub fn to_ref(&self) -> TensorRef<'_> {
        TensorRef { column: self.column, elements: PhantomData }
    }

    /// The same tensor, borrowed for a shorter time.
    #[inline]
    pub fn reborrow(&mut self) -> TensorMut<'_> {
        TensorMut { column: self.column, elements: PhantomData }
    }

    /// The elements, if the tensor is of this format.
    #[inline]
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        self.to_ref().as_slice()
    }

    /// The elements, to write, if the tensor is of this format.
    #[inline]
    pub fn as_slice_mut<T: Element>(&mut self) -> Option<&mut [T]> {
        self.reborrow().into_slice()
    }

    /// The elements, to write, for as long as the tensor was borrowed, if it is of this format.
    #[inline]
    pub fn into_slice<T: Element>(self) -> Option<&'a mut [T]> {
        let (start, len) = (self.column.streams[0], self.len());
        // SAFETY: as for `TensorRef::as_slice`; the borrow is exclusive and ends here.
        (T::DTYPE == self.dtype()).then(|| unsafe { from_raw_parts_mut(start.cast(), len) })
    }

    /// A stream as a tensor of its own; `None` if the format has fewer streams.
    pub fn stream_mut(&mut self, index: usize) -> Option<TensorMut<'_>> {
        Some(TensorMut { column: self.column.stream(index)?, elements: PhantomData })
    }

    /// A tensor of a format of two streams, which are these: see [`TensorRef::from_streams`].
    ///
    /// # Errors
    /// As [`TensorRef::from_streams`].
    pub fn from_streams(
        dtype: Dtype,
        first: impl Into<TensorMut<'a>>,
        second: impl Into<TensorMut<'a>>,
    ) -> Result<Self, Error> {
        let column = Column::from_streams(dtype, first.into().column, second.into().column)?;
        Ok(TensorMut { column, elements: PhantomData })
    }

    /// The bytes of a stream, in the machine's byte order; `None` if the format has fewer streams. Every pattern of bytes
    /// is a valid entry.
    pub fn as_bytes_mut(&mut self, stream: usize) -> Option<&mut [u8]> {
        // SAFETY: as for `into_slice`.
        self.column.bytes_of(stream).map(|bytes| unsafe { &mut *bytes.cast_mut() })
    }

    /// The elements of a range.
    ///
    /// # Errors
    /// [`Error::Range`] if the range is not within the tensor, [`Error::CutBlock`] if it cuts a block of the format.
    pub fn range(self, range: Range<usize>) -> Result<Self, Error> {
        Ok(TensorMut { column: self.column.range(range)?, ..self })
    }

    /// The elements before `at`, and the others.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn split_at(self, at: usize) -> Result<(Self, Self), Error> {
        let (column, elements) = (self.column, self.elements);
        let part = |range| Ok(TensorMut { column: column.range(range)?, elements });
        // The two have no element in common, and the whole is gone.
        Ok((part(0..at)?, part(at..column.len)?))
    }

    /// Rounds the values to the format and stores them from element `start` on. One thread, plain Rust: for what is not
    /// hot.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn write_f32(&mut self, start: usize, from: &[f32]) -> Result<(), Error> {
        let part = self.reborrow().range(start..start.saturating_add(from.len()))?;
        with_format!(part.dtype(), F => {
            let [first, second] = part.column.streams;
            // SAFETY: writable by this tensor's borrow; the lengths are those of the streams of `part`.
            let (first, second) = unsafe { streams_of_mut::<F>(first, second, part.len()) };
            with_ieee_state(|| F::encode(Scalar, from, first, second));
        });
        Ok(())
    }

    /// Copies the elements of a tensor of the same format and length. Returns whether it was one; if not, nothing is
    /// written.
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

/// The streams of `len` elements as slices.
///
/// # Safety
/// They are readable, initialised, aligned, and not written while the slices live.
#[inline(always)]
pub(crate) unsafe fn streams_of<'a, F: Layout>(
    first: *const u8,
    second: *const u8,
    len: usize,
) -> (&'a [F::First], &'a [F::Second]) {
    // SAFETY: by this function's contract. Without a second stream its entries are `()`, of which none is taken.
    unsafe { (from_raw_parts(first.cast(), entries::<F>(0, len)), second_of::<F>(second, len)) }
}

/// As [`streams_of`], to write.
///
/// # Safety
/// As for [`streams_of`], and nothing else reads or writes them while the slices live.
#[inline(always)]
pub(crate) unsafe fn streams_of_mut<'a, F: Layout>(
    first: *mut u8,
    second: *mut u8,
    len: usize,
) -> (&'a mut [F::First], &'a mut [F::Second]) {
    let entries_of_second = entries::<F>(1, len);
    // SAFETY: by this function's contract.
    unsafe {
        let second: &mut [F::Second] = match entries_of_second {
            0 => &mut [],
            entries => from_raw_parts_mut(second.cast(), entries),
        };
        (from_raw_parts_mut(first.cast(), entries::<F>(0, len)), second)
    }
}

/// # Safety
/// As for [`streams_of`].
#[inline(always)]
unsafe fn second_of<'a, F: Layout>(start: *const u8, len: usize) -> &'a [F::Second] {
    match entries::<F>(1, len) {
        0 => &[],
        // SAFETY: by this function's contract.
        entries => unsafe { from_raw_parts(start.cast(), entries) },
    }
}

/// Entries of a stream of `len` elements; 0 if the format does not have it.
#[inline(always)]
fn entries<F: Layout>(stream: usize, len: usize) -> usize {
    F::STREAMS.get(stream).map_or(0, |stream| stream.entries(len))
}

impl<'a, T: Element> From<&'a [T]> for TensorRef<'a> {
    #[inline]
    fn from(slice: &'a [T]) -> Self {
        let column = Column::of_one_stream(T::DTYPE, slice.as_ptr().cast_mut().cast(), slice.len());
        TensorRef { column, elements: PhantomData }
    }
}

impl<'a, T: Element> From<&'a mut [T]> for TensorMut<'a> {
    #[inline]
    fn from(slice: &'a mut [T]) -> Self {
        let column = Column::of_one_stream(T::DTYPE, slice.as_mut_ptr().cast(), slice.len());
        TensorMut { column, elements: PhantomData }
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
        TensorRef { column: tensor.column, elements: PhantomData }
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
