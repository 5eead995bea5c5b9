//! A tensor in another library's memory.

use std::ops::Range;

use lion_kernels::{Dtype, Error, TensorBuf, TensorMut, TensorRef};
use pyo3::prelude::*;

/// An array of numpy or of a library with DLPack: where it lies, and what keeps it there.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) writable: bool,
    address: *mut u8,
    /// In bytes.
    strides: Vec<isize>,
    len: usize,
    /// Whether it lies in row-major order, aligned.
    dense: bool,
    /// Keeps the memory.
    _owner: Py<PyAny>,
}

// SAFETY: the memory is plain numbers, and the owner a reference that any thread may hold.
unsafe impl Send for Tensor {}
// SAFETY: what is public of a shared one reads the memory alone.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// A tensor whose memory `owner` keeps alive.
    pub(crate) fn new(
        dtype: Dtype,
        address: *mut u8,
        shape: Vec<usize>,
        strides: Vec<isize>,
        writable: bool,
        owner: Py<PyAny>,
    ) -> Self {
        let len = shape.iter().product();
        let aligned = address.addr().is_multiple_of(dtype.size());
        let dense = len == 0 || aligned && !address.is_null() && is_row_major(&shape, &strides, dtype.size());
        Tensor { dtype, shape, writable, address, strides, len, dense, _owner: owner }
    }

    /// Whether the elements lie one after the other, so that nothing need be copied.
    pub(crate) fn is_dense(&self) -> bool {
        self.dense
    }

    /// Whether there are elements, and no memory for them.
    pub(crate) fn is_null(&self) -> bool {
        self.address.is_null() && self.len > 0
    }

    /// The addresses from the first byte to the end of the last.
    pub(crate) fn span(&self) -> Range<usize> {
        let start = self.address.addr();
        if self.len == 0 {
            return start..start;
        }
        let (mut low, mut high) = (start as isize, (start + self.dtype.size()) as isize);
        for (&side, &stride) in self.shape.iter().zip(&self.strides) {
            let reach = stride.wrapping_mul(side as isize - 1);
            low = low.wrapping_add(reach.min(0));
            high = high.wrapping_add(reach.max(0));
        }
        low as usize..high as usize
    }

    /// The elements, to read. The tensor is dense.
    pub(crate) fn to_ref(&self) -> TensorRef<'_> {
        if self.len == 0 {
            return TensorRef::empty(self.dtype);
        }
        let address = self.address.cast_const();
        // SAFETY: a dense tensor has `len` elements there, aligned, which its owner keeps. Whoever writes them meanwhile,
        // without the GIL, breaks the host's part of the contract (the README's "Threads").
        unsafe { TensorRef::from_raw_parts(self.dtype, [address, address], self.len) }
    }

    /// The elements, to write. The tensor is dense and writable.
    ///
    /// # Safety
    /// No other tensor that is used at the same time shares memory with this one.
    pub(crate) unsafe fn to_mut(&mut self) -> TensorMut<'_> {
        if self.len == 0 {
            return TensorMut::empty(self.dtype);
        }
        // SAFETY: as in `to_ref`; the rest is this function's contract.
        unsafe { TensorMut::from_raw_parts(self.dtype, [self.address; 2], self.len) }
    }

    /// A copy in row-major order.
    pub(crate) fn to_dense(&self) -> Result<TensorBuf, Error> {
        let mut copy = TensorBuf::zeroed(self.dtype, self.len)?;
        let size = self.dtype.size();
        if let Some(bytes) = copy.to_mut().as_bytes_mut(0) {
            let to = bytes.as_mut_ptr();
            self.walk(|at, element| {
                // SAFETY: `walk` gives addresses of elements; the copy has a place for each of `len`, of their size.
                unsafe { std::ptr::copy_nonoverlapping(element.cast_const(), to.add(at * size), size) }
            });
        }
        Ok(copy)
    }

    /// Writes the elements of a copy in row-major order back. The tensor is writable.
    pub(crate) fn write(&mut self, copy: &TensorBuf) {
        let size = self.dtype.size();
        if copy.len() != self.len || copy.dtype() != self.dtype {
            return;
        }
        if let Some(bytes) = copy.to_ref().as_bytes(0) {
            let from = bytes.as_ptr();
            self.walk(|at, element| {
                // SAFETY: as in `to_dense`.
                unsafe { std::ptr::copy_nonoverlapping(from.add(at * size), element, size) }
            });
        }
    }

    /// Visits the elements in row-major order, with their places in it and their addresses.
    fn walk(&self, mut visit: impl FnMut(usize, *mut u8)) {
        if self.len == 0 {
            return;
        }
        let mut place = vec![0_usize; self.shape.len()];
        let mut address = self.address;
        for at in 0..self.len {
            visit(at, address);
            for ((index, &side), &stride) in place.iter_mut().zip(&self.shape).zip(&self.strides).rev() {
                *index += 1;
                address = address.wrapping_offset(stride);
                if *index < side {
                    break;
                }
                address = address.wrapping_offset(stride.wrapping_mul(side as isize).wrapping_neg());
                *index = 0;
            }
        }
    }
}

/// Whether the strides are those of row-major order. The stride along a side of 1 means nothing.
fn is_row_major(shape: &[usize], strides: &[isize], itemsize: usize) -> bool {
    let mut expected = itemsize as isize;
    shape.iter().zip(strides).rev().all(|(&side, &stride)| {
        let fits = side == 1 || stride == expected;
        expected = expected.wrapping_mul(side as isize);
        fits
    })
}
