//! The host's threads: a function of the caller's runs the work of calls, and no pool of the library's is made.

use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::optimizer::{LionOptimizer, State, call};
use crate::status::{LionStatus, caught};

/// A piece of the library's work: `run(work, index)` does the part of worker `index`.
pub type LionWork = unsafe extern "C" fn(work: *mut c_void, index: usize);

/// A function of the host's that runs `run(work, 0)` to `run(work, n - 1)`, on any threads, and returns when all have
/// returned. `context` is what `lion_set_parallel_for` was given.
///
/// A worker that is run twice or not at all is no error: what is left when the function returns is done on the calling
/// thread. The function must neither throw nor jump out, must not use `work` after it has returned, and gets `LION_ERROR_BUSY`
/// from calls on the same optimizer.
pub type LionParallelFor =
    Option<unsafe extern "C" fn(context: *mut c_void, n: usize, run: LionWork, work: *mut c_void)>;

/// The host's function with what it is given.
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
            // On to the guard of the call.
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

/// Runs the work of calls on the host's threads, from the next call on; with a null function, on those of the library's own
/// pool again. `threads` is how many the host has. It changes no bit of a result.
///
/// A call asks for as many workers as the plan allows, and for none if handing the work over does not pay.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `function` does as `LionParallelFor` says, with `context`, until it is
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
