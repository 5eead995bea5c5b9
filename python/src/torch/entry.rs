//! A parameter with its state: their tensors, and where each was at the last look.

use lion_kernels::{Dtype, Error, TensorBuf, TensorMut, TensorRef, prefetch};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::exchange::View;
use super::group::Formats;
use crate::engine::Tensors;
use crate::tensor::Tensor;

/// A tensor of PyTorch that the steps write.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) object: Py<PyAny>,
    pub(super) view: View,
    /// Keeps the memory until the next list, also if another thread gives the tensor other memory during a step.
    pub(super) _storage: Py<PyAny>,
    /// An address within PyTorch's record of the tensor, only to prefetch it.
    pub(super) record: usize,
    /// The address of PyTorch's record of the memory, only to prefetch it.
    pub(super) memory: usize,
    /// The address of the object's class. Python lets it be changed, and PyTorch then calls the new class's code.
    pub(super) class: usize,
}

impl Slot {
    fn prefetch(&self) {
        prefetch_tensor(self.object.as_ptr().addr(), self.record);
        prefetch(self.memory);
    }
}

/// Fetches what the next look at a tensor reads. After a step of many tensors none of it is in the caches.
fn prefetch_tensor(object: usize, record: usize) {
    prefetch(object);
    // The shape lies in the middle of the record, which has four cache lines.
    for line in [-64_isize, 0, 64, 128] {
        prefetch(record.wrapping_add_signed(line));
    }
}

/// A gradient at the last step that had one.
#[derive(Debug)]
pub(super) struct Gradient {
    pub(super) view: View,
    /// Whether it was used in place: it shared no memory with written tensors.
    pub(super) apart: bool,
    /// The address of its object, only to prefetch it: the next gradient is often the same object.
    pub(super) object: usize,
    /// As [`Slot::record`].
    pub(super) record: usize,
}

/// A parameter and its state.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) group: usize,
    pub(super) name: String,
    pub(super) state: Py<PyDict>,
    pub(super) parameter: Slot,
    /// Name of the parameter in stochastic rounding, which makes its random numbers its own.
    pub(super) key: String,
    /// In the order of [`keys`]. Most entries have one, so the others take little room.
    pub(super) states: [Option<Box<Slot>>; STATES],
    /// The addresses of the keys and values in the state's dict. A value that is not a tensor of the list may change, and
    /// has the address 0.
    pub(super) items: Box<[(usize, usize)]>,
    pub(super) gradient: Option<Gradient>,
    /// Whether parameter and state have the same dense strides, so that each is one run of elements.
    pub(super) flat: bool,
    /// Whether the parameter is in row-major order, the order of random numbers and of 8-bit blocks.
    pub(super) row_major: bool,
}

/// The names of the state.
pub(super) fn keys(py: Python<'_>) -> [&Bound<'_, PyString>; STATES] {
    [
        intern!(py, "exp_avg"),
        intern!(py, "accumulator"),
        intern!(py, "ema"),
        intern!(py, "low"),
        intern!(py, "exp_avg_scale"),
    ]
}

/// The number of [`keys`].
pub(super) const STATES: usize = 5;
/// The low halves of a split parameter.
pub(super) const LOW: usize = 3;
/// The scales of an 8-bit momentum.
pub(super) const SCALE: usize = 4;

/// A key of the state with its tensor, the dtypes that it may have, and its shape.
type Check<'a> = (&'a str, &'a Option<Box<Slot>>, &'a [Dtype], &'a [i64]);

/// The elements of a momentum that share a scale.
const SCALE_BLOCK: usize = Dtype::Q8.block();

impl Entry {
    /// Returns the first error in dtypes and shapes of the state.
    pub(super) fn fault(&self) -> Option<String> {
        let parameter = &self.parameter.view;
        let [momentum, accumulator, ema, low, scale] = &self.states;
        let narrow = momentum.as_ref().is_some_and(|slot| slot.view.dtype == Dtype::I8);
        let of_parameter = parameter.shape.as_slice();
        let blocks = [parameter.len.div_ceil(SCALE_BLOCK) as i64];
        let checks: [Check<'_>; STATES] = [
            ("exp_avg", momentum, &[Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I8], of_parameter),
            ("accumulator", accumulator, &[Dtype::F32], of_parameter),
            ("ema", ema, &[Dtype::F32], of_parameter),
            ("low", low, &[Dtype::I16], of_parameter),
            ("exp_avg_scale", scale, &[Dtype::F32], &blocks),
        ];
        for (key, slot, dtypes, shape) in checks {
            let Some(Slot { view, .. }) = slot.as_deref() else { continue };
            let found = view.shape.as_slice();
            if found != shape {
                let what = if key == "exp_avg_scale" { "expected is" } else { "the parameter" };
                return Some(format!("its {key} has the shape {found:?}, and {what} {shape:?}"));
            }
            if !dtypes.contains(&view.dtype) {
                return Some(format!("its {key} has the dtype {}; expected {}", view.dtype, names(dtypes)));
            }
        }
        if momentum.is_none() {
            return Some("its state has no exp_avg".into());
        }
        match (narrow, scale) {
            (true, None) => Some("its exp_avg has codes of 8 bits, and its state no exp_avg_scale".into()),
            (false, Some(_)) => {
                Some("its state has an exp_avg_scale, and its exp_avg no codes of 8 bits".into())
            }
            _ => None,
        }
    }

    /// Returns whether the state has the formats that the group's options ask for.
    pub(super) fn suits(&self, formats: &Formats) -> bool {
        let narrow = self.states[SCALE].is_some();
        formats.split == self.states[LOW].is_some()
            && (formats.seed.is_none() || self.parameter.view.dtype == Dtype::BF16)
            && formats.narrow.is_none_or(|wanted| wanted == narrow)
    }

    /// Returns whether parameter, state and this gradient can be used in place. Random rounding needs row-major order.
    pub(super) fn is_in_place(&self, gradient: &View, rounds_at_random: bool) -> bool {
        let ordered = rounds_at_random || self.states[SCALE].is_some();
        let parameter = &self.parameter.view;
        let alike = gradient.strides == parameter.strides || parameter.is_alike(gradient);
        self.flat && alike && (!ordered || self.row_major)
    }

    /// Fetches what the next look at the tensors reads.
    pub(super) fn prefetch(&self) {
        prefetch(self.state.as_ptr().addr());
        self.written().for_each(Slot::prefetch);
        if let Some(gradient) = &self.gradient {
            prefetch_tensor(gradient.object, gradient.record);
        }
    }

    /// Returns the tensors that steps write.
    pub(super) fn written(&self) -> impl Iterator<Item = &Slot> {
        std::iter::once(&self.parameter).chain(self.states.iter().flatten().map(Box::as_ref))
    }
}

fn names(dtypes: &[Dtype]) -> String {
    dtypes.iter().map(|dtype| dtype.name()).collect::<Vec<_>>().join(", ")
}

/// Returns the tensors of a step. A parameter and its low halves become one tensor, and so do codes and scales.
pub(super) fn formatted<'t>(
    parameter: TensorMut<'t>,
    gradient: TensorRef<'t>,
    states: [Option<TensorMut<'t>>; STATES],
) -> Result<Tensors<'t>, Error> {
    let [momentum, accumulator, ema, low, scale] = states;
    let parameter = match low {
        None => parameter,
        Some(low) => TensorMut::from_streams(Dtype::Split, parameter, low)?,
    };
    let momentum = match (momentum, scale) {
        (Some(codes), Some(scale)) => Some(TensorMut::from_streams(Dtype::Q8, codes, scale)?),
        (momentum, _) => momentum,
    };
    Ok(Tensors { parameter, gradient: Some(gradient), states: [momentum, accumulator, ema] })
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
