//! A parameter with its state, as a step found it and the next one expects it.

use lion_kernels::{Error, TensorBuf, TensorMut, TensorRef};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::exchange::View;
use crate::tensor::Tensor;

/// A tensor of PyTorch that the steps write.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) object: Py<PyAny>,
    pub(super) view: View,
}

/// A parameter and its state.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) group: usize,
    pub(super) name: String,
    pub(super) state: Py<PyDict>,
    pub(super) parameter: Slot,
    /// By [`keys`]; nothing where the options need none.
    pub(super) states: [Option<Slot>; 3],
    /// How many entries the state's dict had.
    pub(super) len: usize,
    /// The gradient of the last step.
    pub(super) gradient: Option<View>,
    /// Whether that gradient was the parameter's own, and shared no memory with what is written.
    pub(super) apart: bool,
    /// Whether parameter and state lie alike and without gaps, so that each is one run of elements.
    pub(super) flat: bool,
}

/// The names of the state.
pub(super) fn keys(py: Python<'_>) -> [&Bound<'_, PyString>; 3] {
    [intern!(py, "exp_avg"), intern!(py, "accumulator"), intern!(py, "ema")]
}

pub(super) const EXP_AVG: usize = 0;

impl Entry {
    /// What the steps write.
    pub(super) fn written(&self) -> impl Iterator<Item = &Slot> {
        std::iter::once(&self.parameter).chain(self.states.iter().flatten())
    }
}

impl View {
    /// The elements of a flat tensor, to read.
    ///
    /// # Safety
    /// The tensor is dense and lives, with this memory, and nothing writes it meanwhile but a task that has the same memory
    /// as its parameter.
    pub(super) unsafe fn borrow<'a>(&self) -> TensorRef<'a> {
        if self.len == 0 {
            return TensorRef::empty(self.dtype);
        }
        let address = std::ptr::with_exposed_provenance(self.address);
        // SAFETY: by this function's contract; `View` has checked address and alignment.
        unsafe { TensorRef::from_raw_parts(self.dtype, [address; 2], self.len) }
    }

    /// The elements of a flat tensor, to write.
    ///
    /// # Safety
    /// As [`borrow`](Self::borrow), and nothing else reads or writes it meanwhile.
    pub(super) unsafe fn borrow_mut<'a>(&self) -> TensorMut<'a> {
        if self.len == 0 {
            return TensorMut::empty(self.dtype);
        }
        let address = std::ptr::with_exposed_provenance_mut(self.address);
        // SAFETY: by this function's contract; `View` has checked address and alignment.
        unsafe { TensorMut::from_raw_parts(self.dtype, [address; 2], self.len) }
    }

    /// The tensor of any layout.
    pub(super) fn to_tensor(&self, owner: Py<PyAny>) -> Tensor {
        let size = self.dtype.size() as isize;
        let shape = self.shape.as_slice().iter().map(|&side| side as usize).collect();
        let strides = self.strides.as_slice().iter().map(|&stride| stride as isize * size).collect();
        Tensor::new(
            self.dtype,
            std::ptr::with_exposed_provenance_mut(self.address),
            shape,
            strides,
            true,
            owner,
        )
    }
}

/// A tensor that is not flat, copied to row-major order for a step and written back.
#[derive(Debug)]
pub(super) struct Copied {
    tensor: Tensor,
    pub(super) dense: TensorBuf,
}

impl Copied {
    pub(super) fn new(view: &View, owner: Py<PyAny>) -> Result<Self, Error> {
        let tensor = view.to_tensor(owner);
        let dense = tensor.to_dense()?;
        Ok(Copied { tensor, dense })
    }

    pub(super) fn write_back(&mut self) {
        self.tensor.write(&self.dense);
    }
}
