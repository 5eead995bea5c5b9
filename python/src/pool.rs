//! The threads of a call: the caller with rayon's global pool or, after a fork, with a pool that the new process made.
//!
//! A forked process has none of its parent's threads, so work queued for them never ends. The process that first used this
//! module uses rayon's global pool. Every other process makes a pool of its own and enters it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The process that may use rayon's global pool; 0 before the first call.
static HOME: AtomicU32 = AtomicU32::new(0);

/// The pool of a forked process. Pools of its parents are never dropped, as their threads would be waited for.
static FORKED: Mutex<Option<(u32, &'static ThreadPool)>> = Mutex::new(None);

/// Runs work where the core finds living threads.
pub(crate) fn enter<R: Send>(work: impl FnOnce() -> PyResult<R> + Send) -> PyResult<R> {
    match forked()? {
        None => work(),
        Some(pool) => pool.install(work),
    }
}

/// Returns whether this process may use threads that other libraries started: it is not a fork of one that used this module.
pub(crate) fn is_home() -> bool {
    let process = std::process::id();
    match HOME.compare_exchange(0, process, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => true,
        Err(home) => home == process,
    }
}

/// The pool of this process, if it is not at home in the global one.
pub(crate) fn forked() -> PyResult<Option<&'static ThreadPool>> {
    if is_home() {
        return Ok(None);
    }
    let process = std::process::id();
    let mut known = FORKED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match *known {
        Some((owner, pool)) if owner == process => Ok(Some(pool)),
        _ => {
            let built = ThreadPoolBuilder::new().build();
            let pool = built.map_err(|error| {
                PyRuntimeError::new_err(format!("no threads in the forked process {process}: {error}"))
            })?;
            let pool: &'static ThreadPool = Box::leak(Box::new(pool));
            *known = Some((process, pool));
            Ok(Some(pool))
        }
    }
}
