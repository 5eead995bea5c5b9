//! The tasks of a step, kept for the next one. While no tensor moves, a step takes them as they are.

use lion_kernels::{Error, GradientTransform, LionStep, StepTensors, Task};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::entry::{Entry, Slot, formatted};
use super::group::Group;
use super::look::Pending;
use crate::engine::{Tensors, settings};

/// Tasks on tensors in place, of groups whose steps need no norm and no counter.
#[derive(Debug)]
pub(super) struct Ready {
    /// The places of the entries in the list.
    places: Vec<usize>,
    /// The steps of the groups.
    steps: Vec<LionStep>,
    pub(super) tasks: Vec<Task<'static>>,
    pub(super) parameters: Py<PyList>,
    pub(super) bytes: usize,
}

impl Ready {
    /// Returns the tasks for these gradients: the last ones, brought up to date, or new ones. `None` if some tensors cannot
    /// be used in place.
    pub(super) fn of(
        last: Option<Ready>,
        py: Python<'_>,
        entries: &[Entry],
        groups: &[Group],
        transform: &GradientTransform,
        pending: &Pending<'_>,
    ) -> PyResult<Result<Option<Self>, Error>> {
        let steps = groups
            .iter()
            .map(|group| settings(transform, group.step, &super::group::PLAIN, group.fixed_clip()));
        let steps = match steps.collect::<Result<Vec<_>, _>>() {
            Ok(steps) => steps,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(mut ready) = last.filter(|last| last.places == pending.steps) {
            return Ok(ready.update(entries, steps, pending).map(|usable| usable.then_some(ready)));
        }
        let mut tasks = Vec::with_capacity(pending.steps.len());
        let mut bytes = 0_usize;
        for &at in &pending.steps {
            let found = entries.get(at).and_then(|entry| Some((entry, steps.get(entry.group)?)));
            let Some((entry, step)) = found else { return Ok(Ok(None)) };
            match task(entry, *step) {
                Ok(Some(task)) => tasks.push(task),
                other => return Ok(other.map(|_| None)),
            }
            bytes = bytes.saturating_add(tasks.last().map_or(0, Task::bytes));
        }
        let parameters =
            pending.steps.iter().filter_map(|&at| Some(entries.get(at)?.parameter.object.bind(py)));
        let parameters = PyList::new(py, parameters.collect::<Vec<_>>())?.unbind();
        Ok(Ok(Some(Ready { places: pending.steps.clone(), steps, tasks, parameters, bytes })))
    }

    /// Takes the new hyperparameters, and the gradients that have moved. Returns false if one cannot be used in place.
    fn update(
        &mut self,
        entries: &[Entry],
        steps: Vec<LionStep>,
        pending: &Pending<'_>,
    ) -> Result<bool, Error> {
        if steps != self.steps {
            for (task, &at) in self.tasks.iter_mut().zip(&self.places) {
                if let Some(step) = entries.get(at).and_then(|entry| steps.get(entry.group)) {
                    task.set_step(*step)?;
                }
            }
            self.steps = steps;
        }
        for &place in &pending.moved {
            let entry = self.places.get(place).and_then(|&at| entries.get(at));
            let step = entry.and_then(|entry| self.steps.get(entry.group));
            let (Some(entry), Some(step), Some(old)) = (entry, step, self.tasks.get_mut(place)) else {
                return Ok(false);
            };
            let Some(new) = task(entry, *step)? else { return Ok(false) };
            *old = new;
        }
        Ok(true)
    }
}

/// Returns the step of an entry; `None` if its tensors cannot be used in place.
fn task(entry: &Entry, step: LionStep) -> Result<Option<Task<'static>>, Error> {
    let Some(gradient) = entry.gradient.as_ref().filter(|gradient| entry.is_in_place(&gradient.view, false))
    else {
        return Ok(None);
    };
    // SAFETY: the tensors are dense and alike. A task only runs after a look that found all of them alive and in place, and
    // no two of them share memory.
    let tensors = unsafe {
        let state = |slot: &Option<Box<Slot>>| slot.as_ref().map(|slot| slot.view.borrow_mut());
        formatted(
            entry.parameter.view.borrow_mut(),
            gradient.view.borrow(),
            entry.states.each_ref().map(state),
        )?
    };
    let Tensors { parameter, gradient: Some(gradient), states: [Some(momentum), ..] } = tensors else {
        return Ok(None);
    };
    Task::step(step, StepTensors::in_place(parameter, gradient, momentum)).map(Some)
}
