//! Conversion of momenta between formats, for options that change and states of other optimizers.

use lion_kernels::{Backend, Dtype, Error, Task, TensorMut, TensorRef};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::exchange::{Exchange, View};
use super::group::scale_of;
use crate::error;

/// Writes a momentum to another of as many elements. Each is a tensor in row-major order, or codes of 8 bits and their
/// scales.
#[pyfunction]
pub(crate) fn convert_momentum(
    py: Python<'_>,
    source: Vec<Bound<'_, PyAny>>,
    target: Vec<Bound<'_, PyAny>>,
) -> PyResult<()> {
    error::guarded(|| {
        let (source, target) = (views(&source)?, views(&target)?);
        let convert = || {
            // SAFETY: the views are dense, and their tensors live until this call ends, in which the GIL is held. Python
            // makes the target anew.
            let (source, target) = unsafe { (borrow(&source)?, borrow_mut(&target)?) };
            Task::convert(source, target)?.run(Backend::best())
        };
        convert().map_err(|error| error::kernels(py, error))
    })
}

/// What the decay is multiplied by, for an option `decay_scale` at a learning rate.
#[pyfunction]
pub(crate) fn decay_rate(scale: &str, learning_rate: f64) -> PyResult<f32> {
    let rate = learning_rate as f32;
    Ok(scale_of(scale)?.map_or(rate, |scale| scale.at(rate)))
}

fn views(tensors: &[Bound<'_, PyAny>]) -> PyResult<Vec<View>> {
    let view = |tensor: &Bound<'_, PyAny>| {
        let view = Exchange::of(&tensor.get_type()).read(tensor)?;
        let dense = view.filter(View::is_row_major);
        dense.ok_or_else(|| PyValueError::new_err("a momentum is not in row-major order on the CPU"))
    };
    tensors.iter().map(view).collect()
}

/// # Safety
/// As [`View::borrow`].
unsafe fn borrow<'a>(views: &[View]) -> Result<TensorRef<'a>, Error> {
    // SAFETY: by this function's contract.
    unsafe {
        match views {
            [codes, scales] => TensorRef::from_streams(Dtype::Q8, codes.borrow(), scales.borrow()),
            [one] => Ok(one.borrow()),
            _ => Err(Error::MissingTensor { tensor: "momentum" }),
        }
    }
}

/// # Safety
/// As [`View::borrow_mut`].
unsafe fn borrow_mut<'a>(views: &[View]) -> Result<TensorMut<'a>, Error> {
    // SAFETY: by this function's contract.
    unsafe {
        match views {
            [codes, scales] => TensorMut::from_streams(Dtype::Q8, codes.borrow_mut(), scales.borrow_mut()),
            [one] => Ok(one.borrow_mut()),
            _ => Err(Error::MissingTensor { tensor: "momentum" }),
        }
    }
}
