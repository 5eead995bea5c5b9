//! Runs a list of tasks in parallel, on rayon's thread pool or on the host's threads.
//!
//! The list is split into one share per worker, of equal bytes, across tensor boundaries. A worker takes chunk after
//! chunk from the front of its preferred share, then from the other shares. So a thread works on the same elements in
//! every step, which stay in its caches and on its memory node. If the system delays one thread, the others take over
//! its chunks. A chunk is a range of tasks; the tasks do not change, so a list can be run again.
//!
//! Any worker may run any chunk, and each chunk is taken once. So a host may run a worker late, twice, on any thread,
//! or not at all. The caller runs all chunks that remain when the host's function returns.
//!
//! Tasks are split at multiples of [`STATISTICS_BLOCK`] elements, and no element's result depends on a split. So thread
//! count and chunk size do not affect the bits.
//!
//! If the plan has no parallel threshold, `latency.rs` decides whether a run uses other threads.

#[cfg(feature = "rayon")]
mod pool;
/// Stands in for the pool if the feature `rayon` is off.
#[cfg(all(feature = "std", not(feature = "rayon")))]
mod pool {
    pub(super) fn index() -> Option<usize> {
        None
    }

    pub(super) fn wait_for(_: &core::sync::atomic::AtomicUsize) {}
}
#[cfg(feature = "std")]
mod latency;
#[cfg(feature = "std")]
mod shares;

use crate::dispatch::Backend;
use crate::error::Error;
use crate::plan::Plan;
#[cfg(feature = "std")]
use crate::statistics::STATISTICS_BLOCK;
use crate::task::Task;

/// A host's function that runs workers on its threads. `parallel_for(n, work)` calls `work(0)` to `work(n - 1)` and
/// returns after all calls have returned.
#[cfg(feature = "std")]
type ParallelFor<'a> = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + 'a;

/// The start latencies of rayon's threads and of the host's threads.
#[cfg(feature = "rayon")]
static RAYON_LATENCY: latency::StartLatency = latency::StartLatency::new();
#[cfg(feature = "std")]
static HOST_LATENCY: latency::StartLatency = latency::StartLatency::new();

/// The maximum number of threads of a run. More threads do not increase memory bandwidth.
pub const MAX_THREADS: usize = 64;

/// Runs a list of tasks by a plan: each element exactly once, in any order.
///
/// With the feature `rayon`, the run uses the calling thread's pool. Outside a pool, it uses rayon's global pool and
/// the calling thread. The run stays on the calling thread if its tensors have fewer bytes than
/// [`Plan::parallel_threshold`]. Without a threshold, it stays there if starting other threads would take longer than
/// they save. It also stays there if the system cannot create threads.
///
/// ```
/// # use lion_kernels::{Backend, GradientStatistics, GradientTransform, Plan, Task, run};
/// let gradient = vec![1.0_f32; 10_000];
/// let mut blocks = [GradientStatistics::default(); 3];
/// let mut tasks = [Task::statistics(&GradientTransform::new(), &gradient, None, &mut blocks)?];
/// run(&Plan::new(Backend::best()).parallel_threshold(0), &mut tasks)?;
/// assert_eq!(GradientStatistics::from_blocks(&blocks).sum_of_squares, 10_000.0);
/// # Ok::<(), lion_kernels::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnavailableBackend`]. Nothing is written then.
pub fn run(plan: &Plan, tasks: &mut [Task<'_>]) -> Result<(), Error> {
    plan.backend.ensure_available()?;
    let bytes = total_bytes(tasks);
    #[cfg(feature = "rayon")]
    {
        let wanted = max_workers(plan, bytes, tasks);
        // The pool's size is read last, because reading it may start the global pool.
        let workers = if wanted < 2 { 1 } else { wanted.min(pool::threads()) };
        if workers > 1 {
            return shares::run(plan, bytes, tasks, workers, &pool::run_workers, &RAYON_LATENCY);
        }
    }
    run_serial(plan.backend, plan.prefetch.enabled_for(bytes), tasks)
}

/// Like [`run()`], but on the host's threads. `parallel_for(workers, work)` calls `work(0)` to `work(workers - 1)` on
/// any threads, and returns after all calls have returned. `threads` is the number of the host's threads.
///
/// Every element is processed exactly once, even if the host calls a worker twice or not at all: the calling thread
/// processes the chunks that remain when `parallel_for` returns.
///
/// ```
/// use lion_kernels::{Backend, LionStep, Plan, StepTensors, Task, run_on};
///
/// let (mut p, g, mut m) = (vec![1.0_f32; 100_000], vec![1.0_f32; 100_000], vec![0.0_f32; 100_000]);
/// let mut tasks = [Task::step(LionStep::new(0.25, 0.9, 0.99)?, StepTensors::in_place(&mut p, &g, &mut m))?];
/// let on_new_threads = |workers: usize, work: &(dyn Fn(usize) + Sync)| {
///     std::thread::scope(|scope| {
///         for worker in 1..workers {
///             scope.spawn(move || work(worker));
///         }
///         work(0);
///     });
/// };
/// run_on(&Plan::new(Backend::best()).parallel_threshold(0), 2, &on_new_threads, &mut tasks)?;
/// assert!(p.iter().all(|&value| value == 0.75));
/// # Ok::<(), lion_kernels::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnavailableBackend`]. Nothing is written then.
#[cfg(feature = "std")]
pub fn run_on(
    plan: &Plan,
    threads: usize,
    parallel_for: &ParallelFor<'_>,
    tasks: &mut [Task<'_>],
) -> Result<(), Error> {
    plan.backend.ensure_available()?;
    let bytes = total_bytes(tasks);
    let workers = max_workers(plan, bytes, tasks).min(threads);
    if workers < 2 {
        return run_serial(plan.backend, plan.prefetch.enabled_for(bytes), tasks);
    }
    shares::run(plan, bytes, tasks, workers, parallel_for, &HOST_LATENCY)
}

fn total_bytes(tasks: &[Task<'_>]) -> usize {
    tasks.iter().map(Task::bytes).fold(0, usize::saturating_add)
}

/// Returns the maximum number of workers: limited by the plan, and by the number of chunks. May be 0.
#[cfg(feature = "std")]
fn max_workers(plan: &Plan, bytes: usize, tasks: &[Task<'_>]) -> usize {
    if plan.parallel_threshold.is_some_and(|threshold| bytes < threshold) {
        return 1;
    }
    let elements = tasks.iter().map(Task::elements).fold(0, usize::saturating_add);
    let wanted = plan.threads.map_or(MAX_THREADS, core::num::NonZeroUsize::get).min(MAX_THREADS);
    // The field is public, so it may be 0.
    let chunk = plan.chunk_elements.max(STATISTICS_BLOCK);
    // Without a threshold a worker has at least a whole chunk, unless there is a step. Less work of the other passes is not
    // worth a thread, and the decision would take longer: timing a block took 0.2 µs of a pass of 5 µs.
    match plan.parallel_threshold {
        None if !tasks.iter().any(Task::is_step) => wanted.min(elements / chunk),
        _ => wanted.min(elements.div_ceil(chunk)),
    }
}

/// Runs a list on the calling thread.
fn run_serial(backend: Backend, prefetch: bool, tasks: &mut [Task<'_>]) -> Result<(), Error> {
    for task in tasks {
        // SAFETY: the range is the whole task, which is borrowed exclusively.
        unsafe { task.run_range(backend, prefetch, 0..task.elements())? };
    }
    Ok(())
}
