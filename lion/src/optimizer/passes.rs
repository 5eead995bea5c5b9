//! The passes of a call over its tensors: the one that looks ahead, the one that does the work, and what must wait for
//! it. Each is a queue, so the tensors share a dispatch and the threads share the elements.

use std::mem;

use lion_autotune::Operation;
use lion_kernels::{BLOCK, GradientStatistics, Task, TensorRef};

use super::call::Call;
use super::queue::Queue;
use super::{Lion, Scratch};
use crate::memory::StatesMut;
use crate::variable::{StateMut, Variable};
use crate::{Error, Outcome, Update, VariableId};

impl Lion {
    /// The statistics of every gradient, before any of them is used.
    pub(super) fn measure(&mut self, call: &mut Call, updates: &[Update<'_>]) -> Result<(), Error> {
        let dynamic = self.loss_scale.is_dynamic();
        let Scratch { blocks, measured, tasks, .. } = &mut self.scratch;
        let looked_at = updates.iter().map(|update| {
            let variable = &self.variables[update.variable.0];
            let gradient = update.gradient.filter(|_| dynamic || !variable.overwritten)?;
            Some((variable, update.variable, gradient))
        });
        let len = |gradient: TensorRef<'_>| gradient.len().div_ceil(BLOCK);
        let total = looked_at.clone().flatten().map(|(_, _, gradient)| len(gradient)).sum();
        blocks.clear();
        let no_memory = |_| Error::OutOfMemory { what: "statistics", elements: total };
        blocks.try_reserve(total).map_err(no_memory)?;
        blocks.resize(total, GradientStatistics::default());

        let mut queue = Queue::new(&self.profile, Operation::Statistics, tasks, updates.len());
        let mut room = &mut blocks[..];
        for (variable, id, gradient) in looked_at.clone().flatten() {
            let (own, rest) = mem::take(&mut room).split_at_mut(len(gradient));
            room = rest;
            let accumulator = self.memory.accumulator(id, variable);
            let queued = call.measure(variable, gradient, accumulator, own).and_then(|task| queue.push(task));
            queued.map_err(|source| variable.error(source))?;
        }
        queue.finish(tasks)?;

        measured.clear();
        let mut room = &blocks[..];
        for looked_at in looked_at {
            let mut whole = GradientStatistics::default();
            if let Some((variable, _, gradient)) = looked_at {
                let (own, rest) = room.split_at(len(gradient));
                room = rest;
                whole = GradientStatistics::from_blocks(own);
                match variable.overwritten {
                    true => call.found.non_finite += whole.non_finite,
                    false => call.found.add(self.clipping, &whole),
                }
            }
            measured.push(whole);
        }
        call.found.finish(self.clipping);
        Ok(())
    }

    /// Does the call's work on every variable, in the order of registration, but what must wait for it; says whether
    /// anything must.
    pub(super) fn visit(&mut self, call: &Call, updates: &mut [Update<'_>]) -> Result<bool, Error> {
        let Scratch { steps, measured, tasks, .. } = &mut self.scratch;
        let operation = match call.outcome {
            Outcome::Accumulated => Operation::Accumulate,
            _ => Operation::Step,
        };
        let mut queue = Queue::new(&self.profile, operation, tasks, updates.len());
        // An update ends the window of variables too that it does not name.
        let clears = call.outcome == Outcome::Updated && self.window.calls.is_some();
        let mut walk = Walk { variables: &self.variables, states: self.memory.states_mut(), next: 0, clears };
        let mut waits = false;
        for (turn, update) in updates.iter_mut().enumerate() {
            let (variable, state) = walk.to(update.variable);
            let steps = &steps[variable.group.0];
            waits |= variable.constraint.is_some() || update.copy.is_some() && !call.copies(variable, update);
            let done = call.visit(variable, state, update, steps, measured.get(turn), &mut queue);
            done.map_err(|source| variable.error(source))?;
        }
        walk.pass_by(self.variables.len());
        queue.finish(tasks)?;
        Ok(waits)
    }

    /// What needs the parameters as the call leaves them: constraints, and copies that the step did not make.
    pub(super) fn finish(&mut self, call: &Call, updates: &mut [Update<'_>]) -> Result<(), Error> {
        let Scratch { tasks, room, .. } = &mut self.scratch;
        let mut queue = Queue::new(&self.profile, Operation::Convert, tasks, updates.len());
        for update in updates {
            let variable = &self.variables[update.variable.0];
            if update.gradient.is_some() && !variable.overwritten {
                call.constrain(variable, update, room)?;
            }
            if let (false, Some(copy)) = (call.copies(variable, update), &mut update.copy) {
                let task = Task::convert(update.parameter.to_ref(), copy.reborrow());
                task.and_then(|task| queue.push(task)).map_err(|source| variable.error(source))?;
            }
        }
        Ok(queue.finish(tasks)?)
    }
}

/// A way through the variables in the order of registration, to those that a call names.
struct Walk<'v, 's> {
    variables: &'v [Variable],
    /// Of the variables from `next` on.
    states: StatesMut<'s>,
    next: usize,
    /// Whether the accumulators of those that it passes by are cleared.
    clears: bool,
}

impl<'v, 's> Walk<'v, 's> {
    /// The variables come in the order of registration.
    fn to(&mut self, id: VariableId) -> (&'v Variable, StateMut<'s>) {
        self.pass_by(id.0);
        let variable = &self.variables[id.0];
        let state = self.states.nth(id.0 - self.next, variable);
        self.next = id.0 + 1;
        (variable, state)
    }

    /// Those before the one of this number.
    fn pass_by(&mut self, number: usize) {
        if !self.clears {
            return;
        }
        for variable in &self.variables[self.next..number] {
            self.states.nth(0, variable).clear_accumulator();
        }
        self.next = number;
    }
}
