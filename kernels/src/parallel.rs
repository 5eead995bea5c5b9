//! Runs a list of tasks on as many threads as pay, of the rayon pool or of the host.
//!
//! The list is cut into one share for each worker, of equal bytes, across the borders of tensors. A worker takes piece
//! after piece off the front of its own share, and then helps with the others. So a thread works on the same elements in
//! each call, which are then in its caches and on its memory node, and yet no thread waits long for one that was
//! disturbed. The tasks themselves are not changed: a piece is a range of them, and a list can be run again.
//!
//! Which worker runs a piece changes nothing, and each piece is taken once: so a host may run a worker late, twice, on
//! any thread or not at all. What is left when the host's function returns is done by the caller.
//!
//! Tensors are cut at multiples of [`STATISTICS_BLOCK`] elements only, and no element's result depends on a cut, so neither number
//! of threads nor chunk size changes a bit.
//!
//! Unless the plan says from how many bytes on, a call is shared if that pays (`handover.rs`).

#[cfg(feature = "rayon")]
mod pool;
/// Without rayon there is no pool.
#[cfg(all(feature = "std", not(feature = "rayon")))]
mod pool {
    pub(super) fn index() -> Option<usize> {
        None
    }

    pub(super) fn wait_for(_: &core::sync::atomic::AtomicUsize) {}
}
#[cfg(feature = "std")]
mod handover;
#[cfg(feature = "std")]
mod shares;

use crate::dispatch::Backend;
use crate::error::Error;
use crate::plan::Plan;
#[cfg(feature = "std")]
use crate::statistics::STATISTICS_BLOCK;
use crate::task::Task;

/// A host's function that runs workers on its threads: calls its second argument with 0, 1, … up to its first, and
/// returns when all have returned.
#[cfg(feature = "std")]
type ParallelFor<'a> = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + 'a;

/// The threads of rayon's pools, and those of a host.
#[cfg(feature = "rayon")]
static TO_RAYON: handover::Handover = handover::Handover::new();
#[cfg(feature = "std")]
static TO_HOST: handover::Handover = handover::Handover::new();

/// The most threads that share a call. More do not make memory faster.
pub const MAX_THREADS: usize = 64;

/// Runs a list of tasks as a plan says, each element exactly once, in any order.
///
/// With the feature `rayon`, on the pool that this is called in. Outside of a pool the calling thread works too, beside
/// the threads of rayon's global pool. A call stays on the calling thread if it has less than
/// [`Plan::parallel_threshold`] bytes or, without one, takes less time than handing it over pays for. So does every call
/// if no thread can be made.
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
    let bytes = bytes_of(tasks);
    #[cfg(feature = "rayon")]
    {
        let wanted = wanted_workers(plan, bytes, tasks);
        // The size of the pool is asked for last: that starts the global pool if there is none.
        let workers = if wanted < 2 { 1 } else { wanted.min(pool::threads()) };
        if workers > 1 {
            return shares::run(plan, bytes, tasks, workers, &pool::fan_out, &TO_RAYON);
        }
    }
    run_serial(plan.backend, plan.prefetch.enabled_for(bytes), tasks)
}

/// As [`run()`], on threads of the host's own: `parallel_for(workers, work)` calls `work(0)` to `work(workers - 1)`, on any
/// threads, and returns when all have returned. `threads` is how many it has.
///
/// Every element is done exactly once, also if the host calls a worker twice or not at all: work that is left when
/// `parallel_for` returns is done on the calling thread.
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
    let bytes = bytes_of(tasks);
    let workers = wanted_workers(plan, bytes, tasks).min(threads);
    if workers < 2 {
        return run_serial(plan.backend, plan.prefetch.enabled_for(bytes), tasks);
    }
    shares::run(plan, bytes, tasks, workers, parallel_for, &TO_HOST)
}

fn bytes_of(tasks: &[Task<'_>]) -> usize {
    tasks.iter().map(Task::bytes).fold(0, usize::saturating_add)
}

/// How many workers the plan allows, and the tasks have chunks for.
#[cfg(feature = "std")]
fn wanted_workers(plan: &Plan, bytes: usize, tasks: &[Task<'_>]) -> usize {
    if plan.parallel_threshold.is_some_and(|threshold| bytes < threshold) {
        return 1;
    }
    let elements = tasks.iter().map(Task::elements).fold(0, usize::saturating_add);
    let wanted = plan.threads.map_or(MAX_THREADS, core::num::NonZeroUsize::get).min(MAX_THREADS);
    // A public field, which may hold anything.
    wanted.min(elements.div_ceil(plan.chunk_elements.max(STATISTICS_BLOCK)))
}

/// Runs a list on the calling thread.
fn run_serial(backend: Backend, prefetch: bool, tasks: &mut [Task<'_>]) -> Result<(), Error> {
    for task in tasks {
        // SAFETY: the range is all of the task, which is borrowed exclusively.
        unsafe { task.run_range(backend, prefetch, 0..task.elements())? };
    }
    Ok(())
}
