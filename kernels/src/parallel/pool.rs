//! The rayon pool of the calling thread, or rayon's global pool.

use core::hint;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::error::Error;
use std::sync::OnceLock;

/// Spin iterations before a worker stops waiting (about 50 µs).
const SPIN_LIMIT: usize = 1500;

/// Returns the number of threads of the pool; 1 if no pool exists and none can be created.
pub(super) fn threads() -> usize {
    if rayon::current_thread_index().is_some() {
        return rayon::current_num_threads();
    }
    // rayon panics if it cannot create its global pool. Creating it here returns an error instead.
    static GLOBAL: OnceLock<bool> = OnceLock::new();
    let usable = GLOBAL.get_or_init(|| match rayon::ThreadPoolBuilder::new().build_global() {
        Ok(()) => true,
        // An error without a source means that the pool already exists.
        Err(error) => match error.source() {
            None => true,
            Some(source) => {
                log::warn!(
                    "cannot create a thread pool: {source}; work stays on the calling thread, with the same results"
                );
                false
            }
        },
    });
    if *usable { rayon::current_num_threads() } else { 1 }
}

/// Returns the calling thread's index in its pool.
pub(super) fn index() -> Option<usize> {
    rayon::current_thread_index()
}

/// Runs the workers on the pool. A caller outside the pool works too; otherwise it would only wait.
pub(super) fn run_workers(workers: usize, work: &(dyn Fn(usize) + Sync)) {
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

/// Spins for workers that have not finished their last chunk. Waking a sleeping thread takes longer than a chunk, up to
/// half of the run's time.
pub(super) fn wait_for(busy: &AtomicUsize) {
    for _ in 0..SPIN_LIMIT {
        if busy.load(Ordering::Relaxed) == 0 {
            break;
        }
        hint::spin_loop();
    }
}
