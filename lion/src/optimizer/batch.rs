//! A batch of tasks that threads run together.

use lion_autotune::{Dtypes, Operation, Profile};
use lion_kernels::{Error, Task};

use crate::host_threads::HostThreads;

/// The largest number of tasks in a batch. A larger one would not be faster, and would need more memory.
const LONGEST: usize = 512;

/// Independent tasks. They run when the batch is full, and in [`finish`](Self::finish).
#[derive(Debug)]
pub(super) struct TaskBatch<'p, 't> {
    profile: &'p Profile,
    host: Option<&'p HostThreads>,
    /// The operation of most tasks, which selects the plan.
    operation: Operation,
    tasks: Vec<Task<'t>>,
}

impl<'p, 't> TaskBatch<'p, 't> {
    /// Creates an empty batch for about `expected` tasks, in the memory of `spare`.
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

    /// Runs the remaining tasks, and returns the memory to `spare`.
    #[inline]
    pub(super) fn finish(mut self, spare: &mut Vec<Task<'static>>) -> Result<(), Error> {
        let done = self.run();
        // Collecting a vector's own iterator reuses its memory. It yields nothing, so the lifetime can change.
        *spare = self.tasks.into_iter().map_while(|_| None).collect();
        done
    }

    /// Runs the tasks by the plan for tensors like the first.
    fn run(&mut self) -> Result<(), Error> {
        let Some(first) = self.tasks.first() else { return Ok(()) };
        let [parameter, gradient, momentum] = first.dtypes();
        let bytes = self.tasks.iter().map(Task::bytes).fold(0, usize::saturating_add);
        let plan = self.profile.plan(self.operation, Dtypes { parameter, gradient, momentum }, bytes);
        HostThreads::run(self.host, plan, &mut self.tasks)
    }
}
