//! Errors: one Python exception for each kind of the core's errors, and panics as `RuntimeError`.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// The exception of a kind, by its name. The classes are Python's, in `lion_cpu/errors.py`.
fn exception(py: Python<'_>, kind: &str, message: &str) -> PyErr {
    static OF_KIND: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let raised = || {
        let of_kind = OF_KIND
            .get_or_try_init(py, || py.import("lion_cpu.errors")?.getattr("of_kind").map(Bound::unbind))?;
        of_kind.call1(py, (kind, message))
    };
    match raised() {
        Ok(exception) => PyErr::from_value(exception.into_bound(py)),
        Err(error) => error,
    }
}

/// The core's error as its kind's exception.
pub(crate) fn core(py: Python<'_>, error: &lion::Error) -> PyErr {
    exception(py, error.kind().name(), &error.to_string())
}

/// A kernel's error as its kind's exception.
pub(crate) fn kernels(py: Python<'_>, error: lion_kernels::Error) -> PyErr {
    core(py, &error.into())
}

/// The tuner's error. It has no kinds.
pub(crate) fn autotune(py: Python<'_>, error: &lion_autotune::Error) -> PyErr {
    exception(py, "", &error.to_string())
}

/// A tensor that does not fit its variable.
pub(crate) fn tensor(py: Python<'_>, message: &str) -> PyErr {
    exception(py, lion::ErrorKind::Tensor.name(), message)
}

/// The name of something that does not exist.
pub(crate) fn name(py: Python<'_>, message: &str) -> PyErr {
    exception(py, lion::ErrorKind::Name.name(), message)
}

/// Does the work. A panic in it is a `RuntimeError`: PyO3's own `PanicException` passes `except Exception`.
pub(crate) fn guarded<T>(work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(of_panic(&*panic)))
}

fn of_panic(panic: &(dyn Any + Send)) -> PyErr {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    PyRuntimeError::new_err(format!("internal error of lion_cpu: {}", text.unwrap_or("unknown")))
}
