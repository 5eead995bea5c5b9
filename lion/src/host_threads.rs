//! Runs steps on the host program's threads instead of rayon's.
//!
//! A program with its own threads (an engine, another language's runtime) would otherwise have two pools that compete for
//! the cores. The host gives a function that runs a number of workers. The thread and time of a worker do not affect the
//! result.

use std::fmt;
use std::sync::Arc;

use lion_kernels::{Error, Plan, Task, run, run_on};

use crate::Lion;

/// The host's function: calls its second argument once with each number below its first, on any threads, and returns when
/// all calls have returned.
pub type ParallelFor = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + Send + Sync;

/// The host's function and its number of threads. A clone shares the function.
#[derive(Clone)]
pub(crate) struct HostThreads {
    threads: usize,
    parallel_for: Arc<ParallelFor>,
}

impl HostThreads {
    /// Runs the tasks as the plan says, on the host's threads if it gave a function.
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
    /// Runs steps on the host's threads, from the next step on. `parallel_for(workers, work)` calls `work(0)` to
    /// `work(workers - 1)`, on any threads, and returns when all have returned. `threads` is the number of the host's
    /// threads. The result is the same, bit for bit.
    ///
    /// A step asks for at most as many workers as the [`Profile`](crate::Profile) allows, and for none if a single thread
    /// is faster. The host may run a worker twice or not at all: the calling thread does the rest when `parallel_for`
    /// returns.
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

    /// Runs steps on rayon's threads again.
    pub fn clear_parallel_for(&mut self) {
        self.host = None;
    }
}
