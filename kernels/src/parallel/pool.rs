//! The rayon pool that a call is made in, or rayon's global one.

use core::hint;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::error::Error;
use std::sync::OnceLock;

/// Spin iterations before a worker stops waiting (about 50 µs).
const SPIN_LIMIT: usize = 1500;

/// Threads of the pool; 1 if there is no pool and none can be made.
pub(super) fn threads() -> usize {
    if rayon::current_thread_index().is_some() {
        return rayon::current_num_threads();
    }
    // rayon itself panics if it cannot make its global pool, so it is made here.
    static GLOBAL: OnceLock<bool> = OnceLock::new();
    let usable = GLOBAL.get_or_init(|| match rayon::ThreadPoolBuilder::new().build_global() {
        Ok(()) => true,
        // Without a source the error is that the pool exists.
        Err(error) => match error.source() {
            None => true,
            Some(source) => {
                log::warn!(
                    "no thread pool: {source}; work stays on the calling thread, with the same results"
                );
                false
            }
        },
    });
    if *usable { rayon::current_num_threads() } else { 1 }
}

/// The calling thread's place in its pool.
pub(super) fn index() -> Option<usize> {
    rayon::current_thread_index()
}

/// Runs the workers on the pool. A caller that is not of the pool is a worker itself, since it would wait otherwise.
pub(super) fn fan_out(workers: usize, work: &(dyn Fn(usize) + Sync)) {
    match index() {
        Some(_) => join(0..workers, work),
        None => rayon::in_place_scope(|scope| {
            for worker in 1..workers {
                scope.spawn(move |_| work(worker));
            }
            work(0);
        }),
    }
}

fn join(workers: Range<usize>, work: &(dyn Fn(usize) + Sync)) {
    if workers.len() < 2 {
        return work(workers.start);
    }
    let middle = workers.start + workers.len() / 2;
    rayon::join(|| join(workers.start..middle, work), || join(middle..workers.end, work));
}

/// Waits a little for workers that have not finished their last piece. A thread that goes to sleep instead is woken
/// later than such a piece takes, which can be as late as half of the call.
pub(super) fn wait_for(busy: &AtomicUsize) {
    for _ in 0..SPIN_LIMIT {
        if busy.load(Ordering::Relaxed) == 0 {
            break;
        }
        hint::spin_loop();
    }
}
