//! The passes of a call on their way to the threads.

use lion_kernels::{Error, Plan, Task, run};

/// Passes that run together. More make neither a call faster nor its memory small.
const LONGEST: usize = 512;

/// Passes that do not depend on each other: they run when there are many, and at the end.
#[derive(Debug)]
pub(super) struct Queue<'t> {
    plan: Plan,
    tasks: Vec<Task<'t>>,
}

impl<'t> Queue<'t> {
    /// An empty queue for about this many passes, in the memory of `spare`.
    pub(super) fn new(plan: Plan, spare: &mut Vec<Task<'static>>, expected: usize) -> Self {
        let mut tasks: Vec<Task<'t>> = std::mem::take(spare);
        tasks.reserve_exact(expected.min(LONGEST));
        Queue { plan, tasks }
    }

    pub(super) fn push(&mut self, task: Task<'t>) -> Result<(), Error> {
        if self.tasks.len() >= LONGEST {
            run(&self.plan, &mut self.tasks)?;
            self.tasks.clear();
        }
        self.tasks.push(task);
        Ok(())
    }

    /// Runs what is left, and gives the memory back to `spare`.
    pub(super) fn finish(mut self, spare: &mut Vec<Task<'static>>) -> Result<(), Error> {
        let done = run(&self.plan, &mut self.tasks);
        // Collecting what a vector yields takes the vector's own memory; nothing is left to yield.
        *spare = self.tasks.into_iter().map_while(|_| None).collect();
        done
    }
}
