//! A step's tasks: which passes the options ask for, on tensors as they lie or on copies.

use lion_kernels::{Error, LionStep};
use pyo3::intern;
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
pub(super) struct Pending {
    /// The places of their entries, which know where the gradients lie.
    pub(super) steps: Vec<usize>,
    /// Keeps the gradients.
    pub(super) objects: Py<PyList>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// Bytes of tensors from which a step releases the GIL: some 50 µs of work, beside which that costs little.
const WORTH_RELEASING: usize = 1 << 20;

/// What a step does with one entry.
struct Work<'p> {
    entry: &'p Entry,
    group: &'p Group,
    gradient: &'p View,
    cycle: Cycle,
    /// Whether the tensors lie alike and without gaps.
    flat: bool,
    /// If not: parameter, gradient and state in row-major order.
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
    /// Does the step, and counts it. Returns whether it was done: not if a tensor has moved meanwhile.
    pub(super) fn run(
        &self,
        py: Python<'_>,
        prepared: &Prepared,
        groups: &[Group],
        pending: Pending,
        scale: Option<f32>,
    ) -> PyResult<bool> {
        let raise = |error: Error| error::kernels(py, error);
        let transform = Group::transform(scale).map_err(raise)?;
        let mut works = Vec::with_capacity(pending.steps.len());
        let stepped = PyList::empty(py);
        for at in pending.steps {
            let entry = prepared.entries.get(at);
            let found =
                entry.and_then(|entry| Some((entry, groups.get(entry.group)?, entry.gradient.as_ref()?)));
            let Some((entry, group, gradient)) = found else { continue };
            let cycle = group.cycle(entry.state.bind(py))?;
            let flat = entry.is_flat(&group.formats)
                && (gradient.strides == entry.parameter.view.strides
                    || entry.parameter.view.is_alike(gradient));
            stepped.append(entry.parameter.object.bind(py))?;
            works.push(Work { entry, group, gradient, cycle, flat, copies: None });
        }
        let bytes =
            works.iter().map(|work| work.gradient.len * 3 * work.gradient.dtype.size()).sum::<usize>();
        let releases = bytes >= WORTH_RELEASING;
        let gradients = pending.objects.bind(py);
        let mut held = Vec::new();
        if releases {
            // Other threads may give the tensors other memory meanwhile, and the tensors would not keep the old.
            let written = works.iter().flat_map(|work| work.entry.written());
            for tensor in written.map(|slot| slot.object.bind(py).clone()).chain(gradients.iter()) {
                held.push(tensor.call_method0(intern!(py, "untyped_storage"))?);
            }
        }
        // From here on nothing lets another thread run.
        for (work, gradient) in works.iter().zip(gradients.iter()) {
            if !self.exchange.is_still(&gradient, work.gradient)? {
                return Ok(false);
            }
            for slot in work.entry.written() {
                if !self.exchange.is_still(slot.object.bind(py), &slot.view)? {
                    return Ok(false);
                }
            }
        }
        for work in works.iter_mut().filter(|work| !work.flat) {
            work.copies = Some(Box::new(copies(py, work.entry, work.gradient).map_err(raise)?));
        }
        let mut compute = || {
            // SAFETY: the list holds the tensors, and the step the gradients; the list has no shared memory, and a
            // gradient that shared some has been copied.
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
        drop(held);
        for work in &works {
            count(&work.cycle, work.entry.state.bind(py))?;
        }
        drop(works);
        drop(pending.objects);
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
