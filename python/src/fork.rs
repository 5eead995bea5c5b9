//! Forks: a forked process has none of its parent's other threads, and what those threads were writing stays as it was.
//!
//! The process that loads this module has the number 0, its forks have 1, the forks of these 2. A number costs less than
//! the process's id, and a later process never has it again among its own ancestors.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

static FORKS: AtomicU32 = AtomicU32::new(0);

/// The number of forks between the process that loaded this module and this one.
#[pyfunction]
#[pyo3(name = "forks")]
pub(crate) fn count() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// Starts counting.
pub(crate) fn watch() -> PyResult<()> {
    #[cfg(unix)]
    {
        extern "C" fn in_child() {
            FORKS.fetch_add(1, Ordering::Relaxed);
        }
        let in_child: unsafe extern "C" fn() = in_child;
        // SAFETY: the handler adds to an atomic number, which a child may do, and Python never unloads this module.
        if unsafe { libc::pthread_atfork(None, None, Some(in_child)) } != 0 {
            return Err(pyo3::exceptions::PyMemoryError::new_err("no memory to watch for forks"));
        }
    }
    Ok(())
}

/// The error of a call whose optimizer a fork has torn.
pub(crate) fn torn() -> PyErr {
    PyRuntimeError::new_err(
        "the process was forked while another thread was in a call of this optimizer, so parameters and state are torn: \
         make a new optimizer and load a checkpoint of both, or fork between steps",
    )
}

/// Counts the calls that are in an optimizer, as a context manager. After a fork during one of them every call raises.
#[pyclass(frozen, module = "lion_cpu")]
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// The process's number in the upper half and its calls in the lower.
    running: AtomicU64,
}

impl Calls {
    /// The calls that are running in this process.
    fn running(&self) -> PyResult<u64> {
        let running = self.running.load(Ordering::Relaxed);
        match running & u64::from(u32::MAX) {
            calls if calls == 0 || running >> 32 == u64::from(count()) => Ok(calls),
            _ => Err(torn()),
        }
    }

    fn set(&self, calls: u64) {
        self.running.store(u64::from(count()) << 32 | calls, Ordering::Relaxed);
    }
}

// The GIL is held from reading a number to writing it.
#[pymethods]
impl Calls {
    #[new]
    fn new() -> Self {
        Calls::default()
    }

    fn __enter__(&self) -> PyResult<()> {
        self.running().map(|calls| self.set(calls + 1))
    }

    fn __exit__(&self, _class: &Bound<'_, PyAny>, _error: &Bound<'_, PyAny>, _traceback: &Bound<'_, PyAny>) {
        // A call that was forked is torn, also in the thread that goes on with it.
        if let Ok(calls) = self.running() {
            self.set(calls.saturating_sub(1));
        }
    }

    /// Raises if a fork has torn the optimizer.
    fn check(&self) -> PyResult<()> {
        self.running().map(drop)
    }
}
