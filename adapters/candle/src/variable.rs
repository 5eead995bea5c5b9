//! A variable, with the data that a step needs.

use std::ops::Range;
use std::ptr;

use candle_core::{CpuStorage, DType, Result, Shape, Storage, Tensor, TensorId, Var, bail};
use lion::{Dtype, VariableId};
use lion_kernels::prefetch;

/// A trained variable.
pub(crate) struct Variable {
    pub(crate) id: VariableId,
    pub(crate) name: Box<str>,
    /// The id under which candle stores the gradient.
    pub(crate) tensor: TensorId,
    pub(crate) shape: Shape,
    /// The range of the variable's elements in the storage.
    pub(crate) elements: Range<usize>,
    /// The storage, in a tensor without axes: candle reads each axis of a tensor before it gives access to the storage.
    pub(crate) storage: Tensor,
    record: Record,
}

impl Variable {
    /// Creates the variable. Requires that it is [`trained`].
    pub(crate) fn new(id: VariableId, name: &str, var: &Var) -> Result<Self> {
        let start = var.layout().start_offset();
        let elements = start..start + var.elem_count();
        let tensor = var.as_detached_tensor();
        let storage = if tensor.elem_count() == 0 { tensor } else { tensor.flatten_all()?.get(0)? };
        let record = Record::of(&storage);
        let (name, shape) = (name.into(), var.shape().clone());
        Ok(Variable { id, name, tensor: var.id(), shape, elements, storage, record })
    }

    /// Prefetches the data that access to the storage reads: the tensor without axes, and the storage's record.
    pub(crate) fn fetch_storage(&self) {
        fetch(&*self.storage);
        self.record.fetch();
    }

    /// Prefetches the shape, for comparison with the gradient's.
    pub(crate) fn fetch_shape(&self) {
        fetch(self.shape.dims());
    }
}

/// The address of candle's record of a tensor's storage.
#[derive(Clone, Copy)]
pub(crate) struct Record(usize);

impl Record {
    pub(crate) fn of(tensor: &Tensor) -> Self {
        Record(ptr::from_ref::<Storage>(&tensor.storage_and_layout().0).addr())
    }

    /// Prefetches the record, and its lock, which is before or after it.
    pub(crate) fn fetch(self) {
        prefetch(self.0.wrapping_sub(size_of::<usize>()));
        prefetch(self.0.wrapping_add(size_of::<CpuStorage>()));
    }
}

/// Prefetches a whole record.
pub(crate) fn fetch<T: ?Sized>(record: &T) {
    let start = ptr::from_ref(record).addr();
    for line in (0..size_of_val(record)).step_by(64) {
        prefetch(start + line);
    }
}

/// Returns the dtype of a variable that can be trained here; `None` for one that candle's optimizers leave out.
pub(crate) fn trained(name: &str, var: &Var) -> Result<Option<Dtype>> {
    if !var.dtype().is_float() {
        return Ok(None);
    }
    let Some(dtype) = dtype(var.dtype()) else {
        bail!("variable {name:?}: it is {:?}, and must be F32, F16 or BF16", var.dtype());
    };
    if !var.device().is_cpu() {
        bail!("variable {name:?}: it is on {:?}, and must be on the CPU", var.device().location());
    }
    if !var.is_contiguous() {
        bail!("variable {name:?}: its elements do not lie one after the other");
    }
    Ok(Some(dtype))
}

/// Returns the core's dtype; `None` if the core has no arithmetic for it.
pub(crate) fn dtype(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::F32 => Some(Dtype::F32),
        DType::F16 => Some(Dtype::F16),
        DType::BF16 => Some(Dtype::BF16),
        _ => None,
    }
}
