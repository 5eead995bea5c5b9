//! PyTorch's functions that a step calls.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyType};

/// The functions, and what Python has to call them on many tensors.
#[derive(Debug)]
pub(super) struct Host {
    /// PyTorch's class of tensors. A gradient of another class needs a new list.
    tensor: Py<PyType>,
    gradient: Py<PyAny>,
    /// What the class of `gradient`, a descriptor, does to read it. Calling it saves the search for the name.
    get: ffi::descrgetfunc,
    is_negated: Py<PyAny>,
    any: Py<PyAny>,
    map: Py<PyAny>,
    count_modes: Py<PyAny>,
    increment_version: Py<PyAny>,
}

impl Host {
    /// `count_modes` returns how many modes (`TorchFunctionMode`) replace PyTorch's functions in this thread.
    pub(super) fn new(
        tensor: Bound<'_, PyType>,
        count_modes: Py<PyAny>,
        increment_version: Py<PyAny>,
    ) -> PyResult<Self> {
        let py = tensor.py();
        let builtins = py.import("builtins")?;
        let gradient = tensor.getattr("grad")?;
        // SAFETY: the type is alive. A slot of this number has this type of function, or is null.
        let get = unsafe {
            let slot = ffi::PyType_GetSlot(gradient.get_type_ptr(), ffi::Py_tp_descr_get);
            std::mem::transmute::<*mut std::ffi::c_void, Option<ffi::descrgetfunc>>(slot)
        };
        Ok(Host {
            get: get.ok_or_else(|| PyTypeError::new_err("torch.Tensor.grad is not a descriptor"))?,
            gradient: gradient.unbind(),
            is_negated: tensor.getattr("is_neg")?.unbind(),
            any: builtins.getattr("any")?.unbind(),
            map: builtins.getattr("map")?.unbind(),
            tensor: tensor.unbind(),
            count_modes,
            increment_version,
        })
    }

    /// Returns whether an object is a tensor of PyTorch's own class.
    #[inline]
    pub(super) fn is_tensor(&self, object: &Bound<'_, PyAny>) -> bool {
        object.get_type_ptr() == self.tensor.as_ptr().cast()
    }

    /// Returns whether PyTorch's functions may run Python code in this thread.
    pub(super) fn has_modes(&self, py: Python<'_>) -> PyResult<bool> {
        self.count_modes.bind(py).call0()?.is_truthy()
    }

    /// Returns a tensor's gradient, or Python's `None`. Runs no Python code if no mode is active.
    #[inline]
    pub(super) fn gradient<'py>(&self, tensor: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: the GIL is held, the objects are alive, and the function is the descriptor's own. It returns a new
        // reference or sets an exception.
        unsafe {
            let found = (self.get)(self.gradient.as_ptr(), tensor.as_ptr(), tensor.get_type_ptr().cast());
            Bound::from_owned_ptr_or_err(tensor.py(), found)
        }
    }

    /// Returns whether a tensor is a negated view, whose memory has the opposite signs. Runs no Python code if no mode is
    /// active.
    pub(super) fn any_negated(&self, py: Python<'_>, tensors: &[Bound<'_, PyAny>]) -> PyResult<bool> {
        if let [tensor] = tensors {
            return tensor.call_method0(intern!(py, "is_neg"))?.is_truthy();
        }
        let negated = self.map.bind(py).call1((&self.is_negated, PyList::new(py, tensors)?))?;
        self.any.bind(py).call1((negated,))?.is_truthy()
    }

    /// Tells autograd's check of saved tensors that these were written. Nothing else does.
    pub(super) fn increment_versions(&self, written: &Bound<'_, PyList>) -> PyResult<()> {
        self.increment_version.bind(written.py()).call1((written,)).map(drop)
    }
}

/// Keeps Python's garbage collector from running until it is dropped: a collection can run any Python code.
pub(super) struct NoCollection<'py> {
    was_enabled: bool,
    _py: Python<'py>,
}

impl<'py> NoCollection<'py> {
    pub(super) fn new(py: Python<'py>) -> Self {
        // SAFETY: the GIL is held.
        NoCollection { was_enabled: unsafe { ffi::PyGC_Disable() } != 0, _py: py }
    }
}

impl Drop for NoCollection<'_> {
    fn drop(&mut self) {
        if self.was_enabled {
            // SAFETY: the GIL is held, as `Python` shows.
            unsafe { ffi::PyGC_Enable() };
        }
    }
}
