//! A value that several Python threads may use, one at a time, without the GIL.
//!
//! A waiting thread releases the GIL, so the holder can call Python (a schedule) meanwhile. Two kinds of calls would wait for
//! ever, so they are errors: a call from such a callback, and a call in a process that was forked while another thread held
//! the value. To detect them, the lock is a ticket that names process and thread of its holder. The ticket is taken before
//! the mutex and released after it. So if no ticket is out, no thread has the mutex, not even one that a fork lost.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::{error, fork, pool, schedule};

/// A mutex that knows its holder.
pub(crate) struct Shared<T> {
    value: Mutex<T>,
    /// The holder's process, by its number of forks, in the upper half and its thread in the lower; 0 if nobody holds the
    /// value.
    ticket: AtomicU64,
}

/// How long a thread sleeps before it looks again whether the value is free. Threads seldom share an optimizer.
const PATIENCE: Duration = Duration::from_micros(50);

/// Tells this thread apart from all that there have been in this process.
fn ticket() -> u64 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    thread_local!(static THREAD: u32 = NEXT.fetch_add(1, Ordering::Relaxed));
    u64::from(fork::count()) << 32 | u64::from(THREAD.with(|thread| *thread))
}

impl<T: Send> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Shared { value: Mutex::new(value), ticket: AtomicU64::new(0) }
    }

    /// Does work on the value, without the GIL. An exception that a schedule raised meanwhile is the result.
    pub(crate) fn with<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut T) -> Result<R, lion::Error> + Send,
    ) -> PyResult<R> {
        let held = || {
            let done = self.hold(|| std::thread::sleep(PATIENCE), |value| Ok(work(value)));
            schedule::raised().map_or(done, Err)
        };
        py.detach(|| pool::enter(held))?.map_err(|error| error::core(py, &error))
    }

    /// Does work on the value under the GIL, which the work may give up for a while.
    pub(crate) fn with_gil<R>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut T) -> PyResult<R>,
    ) -> PyResult<R> {
        self.hold(|| py.detach(|| std::thread::sleep(PATIENCE)), work)
    }

    /// Raises if the process was forked while another thread held the value.
    pub(crate) fn check(&self) -> PyResult<()> {
        match self.ticket.load(Ordering::Relaxed) {
            holder if holder == 0 || holder >> 32 == u64::from(fork::count()) => Ok(()),
            _ => Err(fork::torn()),
        }
    }

    fn hold<R>(&self, wait: impl Fn(), work: impl FnOnce(&mut T) -> PyResult<R>) -> PyResult<R> {
        let own = ticket();
        while let Err(holder) = self.ticket.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed) {
            if holder == own {
                return Err(PyRuntimeError::new_err(
                    "the optimizer is in a call already, which has called back into Python",
                ));
            }
            if holder >> 32 != own >> 32 {
                return Err(fork::torn());
            }
            wait();
        }
        let done = error::guarded(|| {
            let Ok(mut value) = self.value.lock() else {
                return Err(PyRuntimeError::new_err(
                    "an earlier call of this optimizer ended in an internal error, so its state is torn: make a new one \
                     and load a checkpoint",
                ));
            };
            work(&mut value)
        });
        self.ticket.store(0, Ordering::Release);
        done
    }
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
