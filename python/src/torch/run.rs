//! One step: the last check of all tensors, the tasks in place or on copies, and the counters.

use lion_kernels::{Error, LionStep};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::entry::{Copied, Entry, STATES, Slot, formatted};
use super::exchange::View;
use super::group::{Group, count};
use super::{Prepared, TorchSteps};
use crate::engine::{Clipping, Cycle, Failure, Item, Tensors};
use crate::error;

/// The gradients of a step, of the entries that have one.
#[derive(Debug)]
pub(super) struct Pending<'py> {
    /// The places of their entries.
    pub(super) steps: Vec<usize>,
    pub(super) gradients: Vec<Bound<'py, PyAny>>,
}

impl<'py> Pending<'py> {
    pub(super) fn with_capacity(entries: usize) -> Self {
        Pending { steps: Vec::with_capacity(entries), gradients: Vec::with_capacity(entries) }
    }

    pub(super) fn push(&mut self, at: usize, gradient: Bound<'py, PyAny>) {
        self.steps.push(at);
        self.gradients.push(gradient);
    }
}

/// Bytes of tensors from which a step releases the GIL: about 50 µs of work, beside which the release costs little.
const WORTH_RELEASING: usize = 1 << 20;

/// What a step does with one entry.
struct Work<'p> {
    entry: &'p Entry,
    group: &'p Group,
    gradient: &'p View,
    cycle: Cycle,
    /// Whether the tensors can be used in place.
    flat: bool,
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
                let state = |slot: &Option<Slot>| slot.as_ref().map(|slot| slot.view.borrow_mut());
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
    /// Steps and counts. Returns false, and writes nothing, if a tensor has moved since the list was prepared.
    pub(super) fn run(
        &self,
        py: Python<'_>,
        prepared: &mut Prepared,
        groups: &[Group],
        mut pending: Pending<'_>,
        scale: Option<f32>,
    ) -> PyResult<bool> {
        let raise = |error: Error| error::kernels(py, error);
        let transform = Group::transform(scale).map_err(raise)?;
        let Prepared { entries, written, .. } = prepared;
        let mut cycles = Vec::with_capacity(pending.steps.len());
        for &at in &pending.steps {
            let found = entries.get(at).and_then(|entry| Some((entry, groups.get(entry.group)?)));
            let Some((entry, group)) = found else { return Ok(false) };
            cycles.push(group.cycle(entry.state.bind(py))?);
        }
        let mut renewed = false;
        for (&at, gradient) in pending.steps.iter().zip(&mut pending.gradients) {
            let Some(entry) = entries.get_mut(at) else { return Ok(false) };
            let still = match &entry.gradient {
                Some(known) if entry.apart => self.exchange.is_still(gradient, known)?,
                _ => false,
            };
            if !still {
                renewed = true;
                if !self.renew(written, entry, gradient)? {
                    return Ok(false);
                }
            }
        }
        // From here on nothing lets another thread run.
        let mut works = Vec::with_capacity(pending.steps.len());
        let mut bytes = 0_usize;
        for ((&at, gradient), cycle) in pending.steps.iter().zip(&pending.gradients).zip(cycles) {
            let found = entries.get(at);
            let found =
                found.and_then(|entry| Some((entry, groups.get(entry.group)?, entry.gradient.as_ref()?)));
            let Some((entry, group, known)) = found else { return Ok(false) };
            if renewed && !self.exchange.is_still(gradient, known)? {
                return Ok(false);
            }
            for slot in entry.written() {
                if !self.exchange.is_still(slot.object.bind(py), &slot.view)? {
                    return Ok(false);
                }
            }
            let alike = known.strides == entry.parameter.view.strides || entry.parameter.view.is_alike(known);
            let flat = entry.is_flat(&group.formats) && alike;
            bytes += known.len * 3 * known.dtype.size();
            works.push(Work { entry, group, gradient: known, cycle, flat, copies: None });
        }
        let releases = bytes >= WORTH_RELEASING;
        for work in works.iter_mut().filter(|work| !work.flat) {
            work.copies = Some(Box::new(copies(py, work.entry, work.gradient).map_err(raise)?));
        }
        let mut compute = || {
            // SAFETY: the list holds the tensors and their memory, and the step the gradients. Tensors of the list share no
            // memory, and a gradient that shared some has been copied.
            unsafe { self.engine.run(&transform, &mut works) }
        };
        let done = if releases { py.detach(compute) } else { compute() };
        done.map_err(|failure: Failure| failure.raise(py))?;
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
        drop(pending);
        // Autograd's check of saved tensors, which nothing else tells of the write.
        self.increment_version.call1(py, (stepped,))?;
        Ok(true)
    }
}

/// Parameter, gradient and state of an entry in row-major order.
fn copies(py: Python<'_>, entry: &Entry, gradient: &View) -> Result<Copies, Error> {
    let copied = |slot: &Slot| Copied::new(&slot.view, slot.object.clone_ref(py));
    let mut states = [const { None }; STATES];
    for (slot, copy) in entry.states.iter().zip(&mut states) {
        *copy = slot.as_ref().map(copied).transpose()?;
    }
    Ok(Copies { parameter: copied(&entry.parameter)?, gradient: Copied::new(gradient, py.None())?, states })
}
