//! candle's tensors as the optimizer's slices, and what it refuses of them.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, Var, bail};
use lion::{Dtype, Slice};

/// The optimizer's name of a format; `None` for one that it has no arithmetic for.
fn dtype(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::F32 => Some(Dtype::F32),
        DType::F16 => Some(Dtype::F16),
        DType::BF16 => Some(Dtype::BF16),
        _ => None,
    }
}

/// The format of a variable that can be trained here; `None` for one that candle's optimizers leave out.
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

/// A gradient that fits its variable, its elements one after the other.
pub(crate) fn gradient(name: &str, var: &Var, gradient: &Tensor) -> Result<Tensor> {
    if gradient.shape() != var.shape() {
        bail!(
            "variable {name:?}: the gradient has the shape {:?}, and the variable has {:?}",
            gradient.dims(),
            var.dims()
        );
    }
    if dtype(gradient.dtype()).is_none() {
        bail!("variable {name:?}: the gradient is {:?}, and must be F32, F16 or BF16", gradient.dtype());
    }
    if !gradient.device().is_cpu() {
        let device = gradient.device().location();
        bail!("variable {name:?}: the gradient is on {device:?}, and must be on the CPU");
    }
    // Another handle of the same storage, where it is contiguous.
    gradient.contiguous()
}

/// The elements of a gradient. There are none to be had where they are a variable's, which has lent them.
pub(crate) fn slice<'a>(name: &str, storage: &'a Storage, layout: &Layout) -> Result<Slice<'a>> {
    let slice = match (storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => {
            values.get(start..end).map(Slice::from)
        }
        (Storage::Cpu(CpuStorage::F16(values)), Some((start, end))) => {
            values.get(start..end).map(Slice::from)
        }
        (Storage::Cpu(CpuStorage::BF16(values)), Some((start, end))) => {
            values.get(start..end).map(Slice::from)
        }
        _ => None,
    };
    match slice {
        Some(slice) => Ok(slice),
        None => bail!("variable {name:?}: its gradient shares its storage with a variable"),
    }
}
