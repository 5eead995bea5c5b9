//! The threads of a step: PyTorch's own, whose workers spin on the other cores between its operations. A forked process
//! has as many of its own.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lion_kernels::{Error, Plan, Task, run, run_on};
use pyo3::prelude::*;

use crate::{fork, pool};

/// `torch_parallel_for` of PyTorch's stable C interface.
type ParallelFor =
    unsafe extern "C" fn(i64, i64, i64, unsafe extern "C" fn(i64, i64, *mut c_void), *mut c_void) -> i32;

/// `torch_get_num_threads`.
type GetThreads = unsafe extern "C" fn(*mut u32) -> i32;

/// PyTorch's functions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Threads {
    functions: Option<(ParallelFor, GetThreads)>,
}

impl Threads {
    /// Takes the functions' addresses from PyTorch's library; 0 in a version without them.
    ///
    /// # Safety
    /// The addresses are those of the two functions.
    pub(crate) unsafe fn new(parallel_for: usize, get_threads: usize) -> Self {
        let functions = (parallel_for != 0 && get_threads != 0).then(|| {
            // SAFETY: by this function's contract.
            unsafe {
                (
                    std::mem::transmute::<*const c_void, ParallelFor>(std::ptr::with_exposed_provenance(
                        parallel_for,
                    )),
                    std::mem::transmute::<*const c_void, GetThreads>(std::ptr::with_exposed_provenance(
                        get_threads,
                    )),
                )
            }
        });
        Threads { functions }
    }

    /// Runs tasks as a plan says, on at most PyTorch's number of threads.
    pub(crate) fn run(&self, plan: &Plan, tasks: &mut [Task<'_>]) -> PyResult<Result<(), Error>> {
        let Some((parallel_for, get_threads)) = self.functions else {
            return pool::enter(|| Ok(run(plan, tasks)));
        };
        let mut threads = 1;
        // SAFETY: the function writes one number.
        if unsafe { get_threads(&raw mut threads) } != 0 {
            threads = 1;
        }
        if fork::count() > 0 {
            // OpenMP would wait for the parent's threads.
            return Ok(run_on(plan, threads as usize, &pool::spread, tasks));
        }
        let on_threads = |workers: usize, work: &(dyn Fn(usize) + Sync)| {
            let context = Context { work };
            // SAFETY: PyTorch calls the function with parts of the range, on any threads, while this call lasts, in which
            // the context lives. If it fails or leaves workers out, the caller does their work.
            unsafe { parallel_for(0, workers as i64, 1, trampoline, (&raw const context).cast_mut().cast()) };
        };
        Ok(run_on(plan, threads as usize, &on_threads, tasks))
    }
}

struct Context<'a> {
    work: &'a (dyn Fn(usize) + Sync),
}

/// # Safety
/// `context` is a [`Context`] that lives and may be shared.
unsafe extern "C" fn trampoline(begin: i64, end: i64, context: *mut c_void) {
    // SAFETY: by this function's contract.
    let context = unsafe { &*context.cast::<Context<'_>>() };
    for worker in begin..end {
        // A panic must not pass through C. The work that is left is done by the caller.
        let _ = catch_unwind(AssertUnwindSafe(|| (context.work)(worker as usize)));
    }
}
