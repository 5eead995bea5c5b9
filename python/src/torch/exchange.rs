//! Reads the memory of PyTorch tensors: by PyTorch's table of C functions (`__dlpack_c_exchange_api__`), which takes about
//! 40 ns a tensor, or by `data_ptr()` and other methods in versions without the table.

use std::ffi::{c_int, c_void};

use lion_kernels::Dtype;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

use crate::dlpack::{self, DlTensor};

/// dlpack.h's `DLPackExchangeAPI`, as far as it is used.
#[repr(C)]
struct Table {
    major: u32,
    minor: u32,
    previous: *const Table,
    allocate: *const c_void,
    to_managed: *const c_void,
    from_managed: *const c_void,
    read: Option<Read>,
}

/// Fills in a struct whose arrays live as long as the Python object is not changed. Returns 0 or sets an exception.
type Read = unsafe extern "C" fn(*mut c_void, *mut DlTensor) -> c_int;

/// A way to read tensors.
#[derive(Clone, Copy, Debug)]
pub(super) enum Exchange {
    Table(Read),
    Methods,
}

impl Exchange {
    /// PyTorch's table, if the class of tensors has one that is known here.
    pub(super) fn of(tensor_class: &Bound<'_, PyAny>) -> Self {
        let table = || {
            let capsule = tensor_class.getattr("__dlpack_c_exchange_api__").ok()?;
            let table = dlpack::pointer::<Table>(&capsule, Some(c"dlpack_exchange_api"))?;
            // SAFETY: by DLPack a capsule of this name holds this table, which lives as long as the process.
            let table = unsafe { &*table };
            if table.major == 1 { table.read } else { None }
        };
        table().map_or(Exchange::Methods, Exchange::Table)
    }

    /// Returns whether tensors are read by the table, which runs no Python code.
    pub(super) fn is_table(self) -> bool {
        matches!(self, Exchange::Table(_))
    }

    /// Returns whether a tensor still has the memory and layout of `known`.
    ///
    /// `tensor` is of PyTorch's own class, not of one derived from it.
    #[inline]
    pub(super) fn is_still(self, tensor: &Bound<'_, PyAny>, known: &View) -> PyResult<bool> {
        let Exchange::Table(read) = self else { return Ok(self.read(tensor)?.as_ref() == Some(known)) };
        let mut found = DlTensor::EMPTY;
        // SAFETY: as in `read`.
        if unsafe { read(tensor.as_ptr().cast(), &raw mut found) } != 0 {
            // SAFETY: the GIL is held.
            unsafe { ffi::PyErr_Clear() };
            return Ok(false);
        }
        // SAFETY: as in `read`.
        let (shape, strides) = unsafe { found.layout() };
        Ok(found.address().addr() == known.address
            && found.is_on_cpu()
            && found.state_dtype() == Some(known.dtype)
            && shape == known.shape.as_slice()
            && strides.is_some_and(|strides| strides == known.strides.as_slice()))
    }

    /// Returns the address of a tensor's shape, which is within PyTorch's record of the tensor; 0 if it is not known.
    ///
    /// `tensor` is of PyTorch's own class, not of one derived from it.
    pub(super) fn record(self, tensor: &Bound<'_, PyAny>) -> usize {
        let Exchange::Table(read) = self else { return 0 };
        let mut found = DlTensor::EMPTY;
        // SAFETY: as in `read`.
        match unsafe { read(tensor.as_ptr().cast(), &raw mut found) } {
            // SAFETY: as in `read`.
            0 => unsafe { found.layout() }.0.as_ptr().addr(),
            _ => {
                // SAFETY: the GIL is held.
                unsafe { ffi::PyErr_Clear() };
                0
            }
        }
    }

    /// Returns a tensor's memory and layout; `None` if it is not CPU memory of a known dtype.
    ///
    /// `tensor` is of PyTorch's own class, not of one derived from it.
    pub(super) fn read(self, tensor: &Bound<'_, PyAny>) -> PyResult<Option<View>> {
        match self {
            Exchange::Table(read) => {
                let mut found = DlTensor::EMPTY;
                // SAFETY: the object is a tensor, as the table asks for, and the struct is writable.
                if unsafe { read(tensor.as_ptr().cast(), &raw mut found) } != 0 {
                    // SAFETY: the GIL is held.
                    unsafe { ffi::PyErr_Clear() };
                    return Ok(None);
                }
                // SAFETY: nothing has changed the tensor since the arrays were handed out.
                Ok(unsafe { View::of(&found) })
            }
            Exchange::Methods => View::of_methods(tensor),
        }
    }
}

/// Memory and layout of a tensor at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) address: usize,
    pub(super) dtype: Dtype,
    pub(super) len: usize,
    pub(super) shape: Sides,
    /// In elements.
    pub(super) strides: Sides,
}

/// At most four numbers in place, as most tensors have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sides {
    Few([i64; 4], u8),
    Many(Vec<i64>),
}

impl Sides {
    fn of(numbers: impl ExactSizeIterator<Item = i64>) -> Self {
        if numbers.len() > 4 {
            return Sides::Many(numbers.collect());
        }
        let mut few = [0; 4];
        let len = numbers.len() as u8;
        for (place, number) in few.iter_mut().zip(numbers) {
            *place = number;
        }
        Sides::Few(few, len)
    }

    pub(super) fn as_slice(&self) -> &[i64] {
        match self {
            Sides::Few(few, len) => few.get(..usize::from(*len)).unwrap_or_default(),
            Sides::Many(many) => many,
        }
    }
}

impl View {
    /// # Safety
    /// As [`DlTensor::layout`].
    unsafe fn of(found: &DlTensor) -> Option<Self> {
        if !found.is_on_cpu() {
            return None;
        }
        // SAFETY: by this function's contract.
        let (shape, strides) = unsafe { found.layout() };
        let strides = match strides {
            Some(strides) => Sides::of(strides.iter().copied()),
            None => row_major(shape),
        };
        View::new(found.address().addr(), found.state_dtype()?, Sides::of(shape.iter().copied()), strides)
    }

    fn of_methods(tensor: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let py = tensor.py();
        if tensor.getattr(intern!(py, "device"))?.getattr(intern!(py, "type"))?.extract::<&str>()? != "cpu" {
            return Ok(None);
        }
        let dtype = tensor.getattr(intern!(py, "dtype"))?.str()?;
        let dtype = match dtype.to_str()? {
            "torch.float32" => Dtype::F32,
            "torch.float16" => Dtype::F16,
            "torch.bfloat16" => Dtype::BF16,
            "torch.int16" => Dtype::I16,
            "torch.int8" => Dtype::I8,
            _ => return Ok(None),
        };
        let address: usize = tensor.call_method0(intern!(py, "data_ptr"))?.extract()?;
        let shape: Vec<i64> = tensor.getattr(intern!(py, "shape"))?.extract()?;
        let strides: Vec<i64> = tensor.call_method0(intern!(py, "stride"))?.extract()?;
        if shape.len() != strides.len() {
            return Err(PyTypeError::new_err("a tensor has another number of strides than of sides"));
        }
        Ok(View::new(address, dtype, Sides::of(shape.into_iter()), Sides::of(strides.into_iter())))
    }

    /// Nothing if the tensor has elements and no memory.
    fn new(address: usize, dtype: Dtype, shape: Sides, strides: Sides) -> Option<Self> {
        let len =
            shape.as_slice().iter().try_fold(1_usize, |len, &side| len.checked_mul(side.try_into().ok()?))?;
        if len > 0 && (address == 0 || !address.is_multiple_of(dtype.size())) {
            return None;
        }
        Some(View { address, dtype, len, shape, strides })
    }

    /// Returns whether the dtype is one of parameters and gradients.
    pub(super) fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// Returns whether the elements are in row-major order without gaps.
    pub(super) fn is_row_major(&self) -> bool {
        let mut expected = 1;
        self.len == 0
            || self.shape.as_slice().iter().zip(self.strides.as_slice()).rev().all(|(&side, &stride)| {
                let fits = side == 1 || stride == expected;
                expected *= side;
                fits
            })
    }

    /// Returns whether the elements fill one piece of memory, in any order of the dimensions.
    pub(super) fn is_dense(&self) -> bool {
        let mut sides: Vec<_> = self.sides().filter(|(side, _)| *side != 1).collect();
        sides.sort_unstable_by_key(|(_, stride)| *stride);
        let mut expected = 1;
        self.len == 0
            || sides.into_iter().all(|(side, stride)| {
                let fits = stride == expected;
                expected *= side;
                fits
            })
    }

    /// Returns whether the elements of the other tensor are in the same order.
    pub(super) fn is_alike(&self, other: &View) -> bool {
        self.shape == other.shape
            && (self.strides == other.strides
                || self
                    .sides()
                    .zip(other.sides())
                    .all(|((side, own), (_, others))| side == 1 || own == others))
    }

    /// Sides and their strides.
    pub(super) fn sides(&self) -> impl Iterator<Item = (i64, i64)> {
        self.shape.as_slice().iter().copied().zip(self.strides.as_slice().iter().copied())
    }

    /// The addresses from the first byte to the end of the last. PyTorch has no negative strides.
    pub(super) fn span(&self) -> std::ops::Range<usize> {
        if self.len == 0 {
            return self.address..self.address;
        }
        let last: i64 = self.sides().map(|(side, stride)| (side - 1).wrapping_mul(stride)).sum();
        self.address..self.address + (last.max(0) as usize + 1) * self.dtype.size()
    }
}

fn row_major(shape: &[i64]) -> Sides {
    let mut strides = vec![0; shape.len()];
    let mut next = 1_i64;
    for (stride, &side) in strides.iter_mut().zip(shape).rev() {
        *stride = next;
        next = next.wrapping_mul(side.max(1));
    }
    Sides::of(strides.into_iter())
}
