//! The passes of a step over its tensors: gradient statistics, the update, and deferred work. Each pass is one batch of
//! tasks, so the tensors share a dispatch and the threads share the elements.

use std::ops::Range;

use lion_autotune::Operation;
use lion_kernels::{Error as KernelError, Task};

use super::batch::TaskBatch;
use super::context::StepContext;
use super::{Lion, Scratch};
use crate::state::{State, StatesMut};
use crate::variable::{Variable, VariableStateMut, joined};
use crate::{Error, Outcome, Update, VariableId};

impl Lion {
    /// Computes the statistics of all gradients, which clipping by norm and dynamic loss scaling need before the update.
    pub(super) fn compute_statistics(
        &mut self,
        context: &mut StepContext,
        updates: &[Update<'_>],
    ) -> Result<(), Error> {
        let dynamic = self.loss_scale.is_dynamic();
        let variables = &self.variables;
        let gradients = updates.iter().filter_map(|update| {
            let gradient =
                update.gradient.filter(|_| dynamic || !variables[update.variable.0].overwritten)?;
            Some((update.variable, update.elements(), gradient))
        });
        let Scratch { statistics, measured, tasks, .. } = &mut self.scratch;
        statistics.reset(self.iterations, variables)?;
        let mut batch =
            TaskBatch::new(&self.profile, self.host.as_ref(), Operation::Statistics, tasks, updates.len());
        context.compute_statistics(gradients, variables, &self.state, statistics, &mut batch)?;
        batch.finish(tasks)?;
        context.gradients = statistics.summarize(self.clip_mode, dynamic, variables, measured);
        if dynamic && context.gradients.non_finite > 0 {
            context.outcome = Outcome::Skipped;
        }
        Ok(())
    }

    /// Updates the given variables, in the order of registration. Returns whether deferred work remains.
    pub(super) fn update_variables(
        &mut self,
        context: &StepContext,
        updates: &mut [Update<'_>],
    ) -> Result<bool, Error> {
        let Scratch { steps, measured, tasks, .. } = &mut self.scratch;
        let operation = match context.outcome {
            Outcome::Accumulated => Operation::Accumulate,
            _ => Operation::Step,
        };
        let mut batch = TaskBatch::new(&self.profile, self.host.as_ref(), operation, tasks, updates.len());
        let mut cursor = StateCursor::new(&self.variables, &mut self.state);
        let mut waits = false;
        for update in updates {
            let (variable, state) = cursor.to(update).map_err(Error::Kernels)?;
            let steps = &steps[variable.group.0];
            waits |=
                variable.constraint.is_some() || update.copy.is_some() && !context.copies(variable, update);
            let done = context.update_variable(
                variable,
                state,
                update,
                steps,
                measured.get(update.variable.0),
                &mut batch,
            );
            done.map_err(|source| variable.error(source))?;
        }
        batch.finish(tasks)?;
        Ok(waits)
    }

    /// Does the work that needs the final parameters: constraints, and copies that the step did not make.
    pub(super) fn run_deferred(
        &mut self,
        context: &StepContext,
        updates: &mut [Update<'_>],
    ) -> Result<(), Error> {
        let Scratch { tasks, constraint, .. } = &mut self.scratch;
        let mut batch =
            TaskBatch::new(&self.profile, self.host.as_ref(), Operation::Convert, tasks, updates.len());
        let mut cursor = StateCursor::new(&self.variables, &mut self.state);
        for update in updates {
            let (variable, mut state) = cursor.to(update).map_err(Error::Kernels)?;
            if update.gradient.is_some() && !variable.overwritten {
                context.constrain(variable, update, state.low.as_deref_mut(), constraint)?;
            }
            if context.copies(variable, update) {
                continue;
            }
            let task = update.refresh_copy(state.low).map_err(|source| variable.error(source))?;
            task.map_or(Ok(()), |task| batch.push(task)).map_err(|source| variable.error(source))?;
        }
        Ok(batch.finish(tasks)?)
    }

    /// Handles a step that is skipped: writes unchanged parameters to their destinations and copies.
    pub(super) fn copy_sources(&mut self, updates: &mut [Update<'_>]) -> Result<(), Error> {
        let backend = self.backend;
        let mut cursor = StateCursor::new(&self.variables, &mut self.state);
        for update in updates {
            let (variable, state) = cursor.to(update).map_err(Error::Kernels)?;
            update.copy_source();
            let task = update.refresh_copy(state.low);
            let done = task.and_then(|task| task.map_or(Ok(()), |mut task| task.run(backend)));
            done.map_err(|source| variable.error(source))?;
        }
        Ok(())
    }

    /// Overwrites each parameter with its moving average, if it has one.
    pub(super) fn overwrite_with_averages(&mut self, updates: &mut [Update<'_>]) -> Result<(), Error> {
        let backend = self.backend;
        let mut cursor = StateCursor::new(&self.variables, &mut self.state);
        for update in updates {
            let (variable, VariableStateMut { mut low, ema, .. }) =
                cursor.to(update).map_err(Error::Kernels)?;
            let of_variable = |source| variable.error(source);
            match ema {
                Some(ema) => {
                    let parameter =
                        joined(update.parameter.reborrow(), low.as_deref_mut()).map_err(of_variable)?;
                    let task = Task::convert(&ema[..], parameter);
                    task.and_then(|mut task| task.run(backend)).map_err(of_variable)?;
                }
                None => update.copy_source(),
            }
            let task = update.refresh_copy(low);
            let done = task.and_then(|task| task.map_or(Ok(()), |mut task| task.run(backend)));
            done.map_err(of_variable)?;
        }
        Ok(())
    }
}

/// Walks through the variables in the order of registration, and returns the state of each update's elements.
struct StateCursor<'v, 's> {
    variables: &'v [Variable],
    /// The states of the variables from `next` on.
    states: StatesMut<'s>,
    next: usize,
    /// The rest of the state of the variable before `next`, and its first element.
    rest: Option<(VariableStateMut<'s>, usize)>,
}

impl<'v, 's> StateCursor<'v, 's> {
    fn new(variables: &'v [Variable], state: &'s mut State) -> Self {
        StateCursor { variables, states: state.states_mut(), next: 0, rest: None }
    }

    /// Returns the update's variable and the state of its elements. Requires that the updates come in order.
    fn to(&mut self, update: &Update<'_>) -> Result<(&'v Variable, VariableStateMut<'s>), KernelError> {
        let index = update.variable.0;
        let variable = &self.variables[index];
        if index >= self.next {
            let state = self.states.nth(index - self.next, variable);
            self.next = index + 1;
            if update.range.is_none() {
                return Ok((variable, state));
            }
            self.rest = Some((state, variable.held.start));
        }
        let (state, at) = self.rest.as_mut().expect("a variable that comes again comes by ranges");
        let elements = update.elements();
        let taken = state.take(elements.start - *at, elements.len())?;
        *at = elements.end;
        Ok((variable, taken))
    }
}

/// Clears the accumulators of all elements that are not given, since an update ends their accumulation cycle too. Requires
/// that `given` is sorted.
pub(super) fn clear_accumulators_beside(
    given: impl Iterator<Item = (VariableId, Range<usize>)>,
    variables: &[Variable],
    state: &mut State,
) {
    let mut given = given.peekable();
    let mut states = state.states_mut();
    for (index, variable) in variables.iter().enumerate() {
        let accumulator = states.nth(0, variable).accumulator.unwrap_or_default();
        let mut clear = |range: Range<usize>| match accumulator.is_empty() {
            true => {}
            false => accumulator[variable.within_held(&range)].fill(0.0),
        };
        let mut start = variable.held.start;
        while let Some((_, range)) = given.next_if(|(id, _)| id.0 == index) {
            clear(start..range.start.max(start));
            start = range.end.min(variable.held.end);
        }
        clear(start..variable.held.end);
    }
}
