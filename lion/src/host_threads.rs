//! The host's threads: calls run on them, and not on rayon's, if the host gives a function that does so.
//!
//! A program that has its own threads (an engine, another language's runtime) would otherwise have two pools that fight
//! for the cores. The function is asked to run a number of workers; which thread runs a worker, and when, changes no bit.

use std::fmt;
use std::sync::Arc;

use lion_kernels::{Error, Plan, Task, run, run_on};

use crate::Lion;

/// Runs workers on the host's threads: calls its second argument with 0, 1, … up to its first, and returns when all have
/// returned.
pub type ParallelFor = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + Send + Sync;

/// A host's function and how many threads it has. A clone shares the function.
#[derive(Clone)]
pub(crate) struct HostThreads {
    threads: usize,
    parallel_for: Arc<ParallelFor>,
}

impl HostThreads {
    /// Runs the tasks as the plan says, on the host's threads if there are any.
    #[inline]
    pub(crate) fn run(host: Option<&Self>, plan: &Plan, tasks: &mut [Task<'_>]) -> Result<(), Error> {
        match host {
            None => run(plan, tasks),
            Some(host) => run_on(plan, host.threads, &*host.parallel_for, tasks),
        }
    }
}

impl fmt::Debug for HostThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostThreads").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Lion {
    /// Runs the work of calls on the host's threads, from the next call on: `parallel_for(workers, work)` calls `work(0)`
    /// to `work(workers - 1)`, on any threads, and returns when all have returned. `threads` is how many it has. The
    /// result is the same, bit for bit.
    ///
    /// A call asks for at most as many workers as the [`Profile`](crate::Profile) allows, and for none if handing work
    /// over does not pay. A worker that the host runs twice or not at all is no error: what is left when `parallel_for`
    /// returns is done on the calling thread.
    ///
    /// ```
    /// use lion::{Dtype, Lion, Plan, Update};
    ///
    /// let plan = Plan::new(lion::Backend::best()).parallel_threshold(0);
    /// let mut optimizer = Lion::builder().learning_rate(0.25).plan(plan).build()?;
    /// optimizer.set_parallel_for(2, |workers, work| {
    ///     std::thread::scope(|scope| {
    ///         for worker in 0..workers {
    ///             scope.spawn(move || work(worker));
    ///         }
    ///     });
    /// });
    /// let weights = optimizer.register("weights", &[100_000], Dtype::F32)?;
    /// let (mut parameter, gradient) = (vec![1.0_f32; 100_000], vec![0.5_f32; 100_000]);
    /// optimizer.apply(&mut [Update::new(weights, &mut parameter, &gradient)])?;
    /// assert!(parameter.iter().all(|&value| value == 0.75));
    /// # Ok::<(), lion::Error>(())
    /// ```
    pub fn set_parallel_for(
        &mut self,
        threads: usize,
        parallel_for: impl Fn(usize, &(dyn Fn(usize) + Sync)) + Send + Sync + 'static,
    ) {
        self.host = Some(HostThreads { threads, parallel_for: Arc::new(parallel_for) });
    }

    /// Runs the work of calls on rayon's threads again.
    pub fn clear_parallel_for(&mut self) {
        self.host = None;
    }
}
