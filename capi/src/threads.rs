//! The host's threads: the caller's parallel-for function runs the work of calls, and the library makes no thread pool.

use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::optimizer::{LionOptimizer, State, call};
use crate::status::{LionStatus, caught};

/// A share of the library's work: `run(work, index)` does that of worker `index`.
pub type LionWork = unsafe extern "C" fn(work: *mut c_void, index: usize);

/// The host's parallel-for: it calls `run(work, 0)` to `run(work, n - 1)`, on any threads, and returns when all have returned.
/// `context` is that of `lion_set_parallel_for`.
///
/// A worker may run twice or not at all: the calling thread does what is left when the function returns. The function must
/// neither throw nor jump out, and must not use `work` after it has returned. Calls that it makes on the same optimizer return
/// `LION_ERROR_BUSY`.
pub type LionParallelFor =
    Option<unsafe extern "C" fn(context: *mut c_void, n: usize, run: LionWork, work: *mut c_void)>;

/// The host's function and its context.
struct Host {
    function: unsafe extern "C" fn(*mut c_void, usize, LionWork, *mut c_void),
    context: *mut c_void,
}

// SAFETY: by the contract of `lion_set_parallel_for` the function may be called on any thread with the context.
unsafe impl Send for Host {}
// SAFETY: as above; and one call at a time is in an optimizer.
unsafe impl Sync for Host {}

/// The work of a call, shared with the host's threads.
struct Shared<'a> {
    workers: usize,
    work: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<String>>,
}

impl Host {
    fn run(&self, workers: usize, work: &(dyn Fn(usize) + Sync)) {
        let shared = Shared { workers, work, panic: Mutex::new(None) };
        let address = (&raw const shared).cast_mut().cast();
        // SAFETY: by the contract of `lion_set_parallel_for`. `shared` lives until all workers have returned.
        unsafe { (self.function)(self.context, workers, run_worker, address) };
        if let Some(message) = shared.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            // Caught by the guard of the call.
            std::panic::resume_unwind(Box::new(message));
        }
    }
}

/// # Safety
/// `work` is a `Shared` that lives.
unsafe extern "C" fn run_worker(work: *mut c_void, index: usize) {
    // SAFETY: by this function's contract.
    let shared = unsafe { &*work.cast_const().cast::<Shared<'_>>() };
    if let Err(message) = caught(|| (shared.work)(index % shared.workers.max(1))) {
        *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
    }
}

/// Runs the work of calls on the host's threads, from the next call on; with a null function, on the library's own pool again.
/// `threads` is the number of the host's threads. Results do not depend on it.
///
/// A call uses as many workers as the plan allows. It stays on the calling thread if more threads would not make it faster.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `function` does as `LionParallelFor` says, with `context`, until it is
/// replaced or the optimizer is freed, on any thread that calls the library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_set_parallel_for(
    optimizer: *mut LionOptimizer,
    threads: usize,
    function: LionParallelFor,
    context: *mut c_void,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        match function {
            None => optimizer.lion.clear_parallel_for(),
            Some(function) => {
                let host = Host { function, context };
                optimizer.lion.set_parallel_for(threads, move |workers, work| host.run(workers, work));
            }
        }
        Ok(())
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}
