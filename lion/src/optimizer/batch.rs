//! The passes of a call on their way to the threads.

use lion_autotune::{Dtypes, Operation, Profile};
use lion_kernels::{Error, Task};

use crate::host_threads::HostThreads;

/// Passes that run together. More make neither a call faster nor its memory small.
const LONGEST: usize = 512;

/// Passes that do not depend on each other: they run when there are many, and at the end.
#[derive(Debug)]
pub(super) struct TaskBatch<'p, 't> {
    profile: &'p Profile,
    host: Option<&'p HostThreads>,
    /// What most of the passes do.
    operation: Operation,
    tasks: Vec<Task<'t>>,
}

impl<'p, 't> TaskBatch<'p, 't> {
    /// An empty batch for about this many passes, in the memory of `spare`.
    pub(super) fn new(
        profile: &'p Profile,
        host: Option<&'p HostThreads>,
        operation: Operation,
        spare: &mut Vec<Task<'static>>,
        expected: usize,
    ) -> Self {
        let mut tasks: Vec<Task<'t>> = std::mem::take(spare);
        tasks.reserve_exact(expected.min(LONGEST));
        TaskBatch { profile, host, operation, tasks }
    }

    pub(super) fn push(&mut self, task: Task<'t>) -> Result<(), Error> {
        if self.tasks.len() >= LONGEST {
            self.run()?;
            self.tasks.clear();
        }
        self.tasks.push(task);
        Ok(())
    }

    /// Runs what is left, and gives the memory back to `spare`.
    #[inline]
    pub(super) fn finish(mut self, spare: &mut Vec<Task<'static>>) -> Result<(), Error> {
        let done = self.run();
        // Collecting what a vector yields takes the vector's own memory; nothing is left to yield.
        *spare = self.tasks.into_iter().map_while(|_| None).collect();
        done
    }

    /// By the plan for tensors like the first.
    fn run(&mut self) -> Result<(), Error> {
        let Some(first) = self.tasks.first() else { return Ok(()) };
        let [parameter, gradient, momentum] = first.dtypes();
        let bytes = self.tasks.iter().map(Task::bytes).fold(0, usize::saturating_add);
        let plan = self.profile.plan(self.operation, Dtypes { parameter, gradient, momentum }, bytes);
        HostThreads::run(self.host, plan, &mut self.tasks)
    }
}
