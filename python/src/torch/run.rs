//! One step after the look at its tensors: the tasks in place or on copies, and the counters.

use lion_kernels::{Error, LionStep};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::entry::{Copied, Entry, STATES, Slot, formatted};
use super::exchange::View;
use super::group::{Group, PLAIN, count};
use super::look::Pending;
use super::ready::Ready;
use super::{Prepared, TorchSteps};
use crate::engine::{Clipping, Cycle, Failure, Item, Tensors};
use crate::error;

/// Bytes of tensors from which a step releases the GIL: about 50 µs of work, beside which the release costs little.
const WORTH_RELEASING: usize = 1 << 20;

/// What a step does with one entry.
struct Work<'p> {
    entry: &'p Entry,
    group: &'p Group,
    gradient: &'p View,
    cycle: Cycle,
    /// Copies in row-major order, if the tensors cannot be used in place.
    copies: Option<Box<Copies>>,
}

struct Copies {
    parameter: Copied,
    gradient: Copied,
    states: [Option<Copied>; STATES],
}

impl Item for Work<'_> {
    fn step(&self) -> LionStep {
        self.group.step_of(&self.entry.key, &self.cycle)
    }

    fn clip(&self) -> Clipping {
        self.group.clip
    }

    fn cycle(&self) -> Cycle {
        self.cycle
    }

    fn elements(&self) -> usize {
        self.gradient.len
    }

    fn has_gradient(&self) -> bool {
        true
    }

    unsafe fn tensors(&mut self) -> Result<Tensors<'_>, Error> {
        match &mut self.copies {
            // SAFETY: a flat entry's tensors are dense and alike; the rest is this function's contract.
            None => unsafe {
                let state = |slot: &Option<Box<Slot>>| slot.as_ref().map(|slot| slot.view.borrow_mut());
                formatted(
                    self.entry.parameter.view.borrow_mut(),
                    self.gradient.borrow(),
                    self.entry.states.each_ref().map(state),
                )
            },
            Some(copies) => formatted(
                copies.parameter.dense.to_mut(),
                copies.gradient.dense.to_ref(),
                copies.states.each_mut().map(|state| state.as_mut().map(|state| state.dense.to_mut())),
            ),
        }
    }
}

impl TorchSteps {
    /// Steps and counts, after a look at the tensors.
    pub(super) fn run(
        &self,
        py: Python<'_>,
        prepared: &mut Prepared,
        groups: &[Group],
        mut pending: Pending<'_>,
        last: Option<Ready>,
        scale: Option<f32>,
    ) -> PyResult<()> {
        let raise = |error: Error| error::kernels(py, error);
        let transform = Group::transform(scale).map_err(raise)?;
        let Prepared { entries, ready, .. } = prepared;
        let plain = !groups.iter().any(|group| group.is_counted() || group.clip.needs_norms());
        if plain {
            *ready = Ready::of(last, py, entries, groups, &transform, &pending)?.map_err(raise)?;
            if let Some(ready) = ready {
                let tasks = &mut ready.tasks;
                pending.collection = None;
                // The list holds the tensors and their memory, and the step the gradients.
                release(py, ready.bytes, || self.engine.run_steps(tasks))?;
                return self.host.increment_versions(ready.parameters.bind(py));
            }
        }
        let mut works = Vec::with_capacity(pending.steps.len());
        let mut bytes = 0_usize;
        for (place, &at) in pending.steps.iter().enumerate() {
            let found = entries.get(at);
            let found = found
                .and_then(|entry| Some((entry, groups.get(entry.group)?, &entry.gradient.as_ref()?.view)));
            let Some((entry, group, gradient)) = found else {
                return Err(PyRuntimeError::new_err("an entry is missing"));
            };
            let copies = match entry.is_in_place(gradient, group.formats.seed.is_some()) {
                true => None,
                false => Some(Box::new(copies(py, entry, gradient).map_err(raise)?)),
            };
            bytes += gradient.len * 3 * gradient.dtype.size();
            works.push(Work {
                entry,
                group,
                gradient,
                cycle: *pending.cycles.get(place).unwrap_or(&PLAIN),
                copies,
            });
        }
        pending.collection = None;
        // SAFETY: the list holds the tensors and their memory, and the step the gradients. Tensors of the list share no
        // memory, and a gradient that shared some has been copied.
        release(py, bytes, || unsafe { self.engine.run(&transform, &mut works) })?;
        for work in &mut works {
            if let Some(copies) = &mut work.copies {
                copies.parameter.write_back();
                copies.states.iter_mut().flatten().for_each(Copied::write_back);
            }
        }
        for work in &works {
            count(&work.cycle, work.entry.state.bind(py))?;
        }
        let stepped = PyList::new(py, works.iter().map(|work| work.entry.parameter.object.bind(py)))?;
        self.host.increment_versions(&stepped)
    }
}

/// Computes without the GIL if that takes long.
fn release(
    py: Python<'_>,
    bytes: usize,
    compute: impl FnOnce() -> Result<(), Failure> + Send,
) -> PyResult<()> {
    let done = if bytes >= WORTH_RELEASING { py.detach(compute) } else { compute() };
    done.map_err(|failure| failure.raise(py))
}

/// Parameter, gradient and state of an entry in row-major order.
fn copies(py: Python<'_>, entry: &Entry, gradient: &View) -> Result<Copies, Error> {
    let copied = |slot: &Slot| Copied::new(&slot.view, slot.object.clone_ref(py));
    let mut states = [const { None }; STATES];
    for (slot, copy) in entry.states.iter().zip(&mut states) {
        *copy = slot.as_deref().map(copied).transpose()?;
    }
    Ok(Copies { parameter: copied(&entry.parameter)?, gradient: Copied::new(gradient, py.None())?, states })
}
