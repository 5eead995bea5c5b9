//! The host's own threads, and two threads in one optimizer.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use lion::Dtype;
use lion_c::*;

use crate::common::{METRICS, Optimizer, VARIABLE, last_error, ok, options, update};
use crate::optimizer;

/// What a host does in its function for threads, and what it sees there.
struct Host {
    optimizer: *mut LionOptimizer,
    calls: AtomicUsize,
    busy: AtomicUsize,
}

/// Runs the workers backwards, and one of them twice; and tries to use the optimizer meanwhile.
///
/// # Safety
/// `context` is a `Host`; `run` and `work` are the library's, of a call that has not returned.
unsafe extern "C" fn host(context: *mut c_void, n: usize, run: LionWork, work: *mut c_void) {
    // SAFETY: what the test has given.
    let host = unsafe { &*context.cast::<Host>() };
    host.calls.fetch_add(1, Ordering::Relaxed);
    let mut metrics = METRICS;
    // SAFETY: right arguments, at a wrong time.
    let status = unsafe { lion_metrics(host.optimizer, &raw mut metrics) };
    host.busy.fetch_add(usize::from(status == LION_ERROR_BUSY), Ordering::Relaxed);
    // SAFETY: still in the call.
    assert_eq!(unsafe { lion_free(host.optimizer) }, LION_ERROR_BUSY);
    for worker in (0..n).rev().chain([0, usize::MAX]) {
        // SAFETY: the library's work.
        unsafe { run(work, worker) };
    }
}

#[test]
fn the_hosts_threads() {
    let plan = LionPlan {
        struct_size: size_of::<LionPlan>(),
        isa: ptr::null(),
        threads: 0,
        chunk_elements: 4096,
        parallel_threshold: 1,
    };
    let c = Optimizer::new(Some(&LionOptions { learning_rate: 0.25, ..options() }));
    let len = 50_000;
    c.register("a", &[len], Dtype::F32, &VARIABLE);
    let mut context = Host { optimizer: c.0, calls: AtomicUsize::new(0), busy: AtomicUsize::new(0) };
    let (mut parameter, gradient) = (vec![1.0_f32; len], vec![1.0_f32; len]);
    let step = update(0, &mut (&mut parameter).into(), Some((&gradient).into()));
    // SAFETY: the context lives until the function is replaced.
    unsafe {
        ok(lion_set_plan(c.0, &raw const plan));
        ok(lion_set_parallel_for(c.0, 3, Some(host), (&raw mut context).cast()));
        ok(lion_apply(c.0, &raw const step, 1));
        ok(lion_set_parallel_for(c.0, 3, None, ptr::null_mut()));
        ok(lion_apply(c.0, &raw const step, 1));
        ok(lion_set_plan(c.0, ptr::null()));
    }
    assert_eq!((context.calls.into_inner(), context.busy.into_inner()), (1, 1));
    assert!(parameter.iter().all(|&value| value == 0.5));
}

/// Calls of two threads at once: each is done as a whole, or refused as busy.
#[test]
fn two_threads_in_one_optimizer() {
    let c = optimizer();
    let address = c.0.expose_provenance();
    let calls = || {
        let optimizer = ptr::with_exposed_provenance_mut(address);
        let (mut parameter, gradient) = ([0.0_f32; 8], [1.0_f32; 8]);
        let step = update(0, &mut (&mut parameter).into(), Some((&gradient).into()));
        let (mut applied, mut busy) = (0, 0);
        while applied < 20_000 {
            // SAFETY: an optimizer that lives, and tensors of this thread's own.
            match unsafe { lion_apply(optimizer, &raw const step, 1) } {
                LION_OK => applied += 1,
                LION_ERROR_BUSY => busy += 1,
                status => panic!("{status}: {}", last_error()),
            }
        }
        assert_eq!(parameter, [-10_000.0; 8]);
        busy
    };
    let busy: u64 = std::thread::scope(|scope| {
        let threads = [scope.spawn(calls), scope.spawn(calls)];
        threads.map(|thread| thread.join().expect("no panic")).into_iter().sum()
    });
    println!("{busy} calls were refused");
    assert_eq!(c.metrics().iterations, 40_000);
}
