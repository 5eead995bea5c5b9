//! The threads of a call: the caller with rayon's global pool or, after a fork, with a pool that the new process made.
//!
//! A forked process has none of its parent's threads, so work queued for them never ends. Only the process that loaded this
//! module uses rayon's global pool. Every other process makes a pool of its own. No lock guards that pool: a thread could
//! hold the lock while another one forks.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::fork;

/// The pool of a forked process.
struct Own {
    forks: u32,
    pool: ThreadPool,
}

/// The last pool that this process or one of its ancestors made. Pools of ancestors are never dropped, as their threads
/// would be waited for.
static OWN: AtomicPtr<Own> = AtomicPtr::new(ptr::null_mut());

/// Runs work where the core finds living threads.
pub(crate) fn enter<R: Send>(work: impl FnOnce() -> PyResult<R> + Send) -> PyResult<R> {
    match own()? {
        None => work(),
        Some(pool) => pool.install(work),
    }
}

/// Runs workers on the caller and the threads of a forked process. The caller does the work of those that do not run.
pub(crate) fn spread(workers: usize, work: &(dyn Fn(usize) + Sync)) {
    let Ok(Some(pool)) = own() else { return };
    pool.in_place_scope(|scope| {
        for worker in 1..workers {
            scope.spawn(move |_| work(worker));
        }
        work(0);
    });
}

/// The pool of this process, if it is a fork.
fn own() -> PyResult<Option<&'static ThreadPool>> {
    let forks = fork::count();
    if forks == 0 {
        return Ok(None);
    }
    let known = OWN.load(Ordering::Acquire);
    // SAFETY: null, or a pool that another thread has stored below, which is never freed.
    if let Some(own) = unsafe { known.as_ref() }
        && own.forks == forks
    {
        return Ok(Some(&own.pool));
    }
    let pool = ThreadPoolBuilder::new().build();
    let pool =
        pool.map_err(|error| PyRuntimeError::new_err(format!("no threads in a forked process: {error}")))?;
    let made = Box::into_raw(Box::new(Own { forks, pool }));
    match OWN.compare_exchange(known, made, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: the box is never freed from here on.
        Ok(_) => Ok(Some(&unsafe { &*made }.pool)),
        Err(other) => {
            // SAFETY: only this thread knows the box. What another thread of this process has stored is never freed.
            unsafe {
                drop(Box::from_raw(made));
                Ok(Some(&(*other).pool))
            }
        }
    }
}
