//! A step's tasks: which passes the options ask for, on tensors as they lie or on copies.

use lion_kernels::{Error, LionStep};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::entry::{Copied, Entry, Slot};
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
    /// If the tensors do not lie alike: parameter, gradient and state in row-major order.
    copies: Option<Box<Copies>>,
}

struct Copies {
    parameter: Copied,
    gradient: Copied,
    states: [Option<Copied>; 3],
}

impl Item for Work<'_> {
    fn step(&self) -> LionStep {
        self.group.step
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

    unsafe fn tensors(&mut self) -> Tensors<'_> {
        match &mut self.copies {
            // SAFETY: a flat entry's tensors are dense and alike; the rest is this function's contract.
            None => unsafe {
                let state = |slot: &Option<Slot>| slot.as_ref().map(|slot| slot.view.borrow_mut());
                Tensors {
                    parameter: self.entry.parameter.view.borrow_mut(),
                    gradient: Some(self.gradient.borrow()),
                    states: self.entry.states.each_ref().map(state),
                }
            },
            Some(copies) => Tensors {
                parameter: copies.parameter.dense.to_mut(),
                gradient: Some(copies.gradient.dense.to_ref()),
                states: copies
                    .states
                    .each_mut()
                    .map(|state| state.as_mut().map(|state| state.dense.to_mut())),
            },
        }
    }
}

impl TorchSteps {
    /// Does the step, and counts it.
    pub(super) fn run(
        &self,
        py: Python<'_>,
        prepared: &Prepared,
        groups: &[Group],
        pending: Pending,
        scale: Option<f32>,
    ) -> PyResult<()> {
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
            let flat = entry.flat
                && (gradient.strides == entry.parameter.view.strides
                    || entry.parameter.view.is_alike(gradient));
            let copies =
                if flat { None } else { Some(Box::new(copies(py, entry, gradient).map_err(raise)?)) };
            stepped.append(entry.parameter.object.bind(py))?;
            works.push(Work { entry, group, gradient, cycle, copies });
        }
        let bytes =
            works.iter().map(|work| work.gradient.len * 3 * work.gradient.dtype.size()).sum::<usize>();
        let mut compute = || {
            // SAFETY: the list holds the tensors, and the step the gradients; the list has no shared memory, and a
            // gradient that shared some has been copied.
            unsafe { self.engine.run(&transform, &mut works) }
        };
        let done = if bytes < WORTH_RELEASING {
            compute()
        } else {
            // Other threads may give the tensors other memory meanwhile, and the objects would not keep the old.
            let written =
                prepared.entries.iter().flat_map(Entry::written).map(|slot| slot.object.bind(py).clone());
            let held = self.exchange.hold(written.chain(pending.objects.bind(py).iter()))?;
            let done = py.detach(compute);
            drop(held);
            done
        };
        done.map_err(|failure: Failure| failure.raise(py))?;
        for work in &mut works {
            if let Some(copies) = &mut work.copies {
                copies.parameter.write_back();
                copies.states.iter_mut().flatten().for_each(Copied::write_back);
            }
            count(&work.cycle, work.entry.state.bind(py))?;
        }
        drop(works);
        drop(pending.objects);
        // Autograd's check of saved tensors, which nothing else tells of the write.
        self.increment_version.call1(py, (stepped,)).map(drop)
    }
}

/// Parameter, gradient and state of an entry in row-major order.
fn copies(py: Python<'_>, entry: &Entry, gradient: &View) -> Result<Copies, Error> {
    let copied = |slot: &Slot| Copied::new(&slot.view, slot.object.clone_ref(py));
    let [momentum, accumulator, ema] = &entry.states;
    let state = |slot: &Option<Slot>| slot.as_ref().map(copied).transpose();
    Ok(Copies {
        parameter: copied(&entry.parameter)?,
        gradient: Copied::new(gradient, py.None())?,
        states: [state(momentum)?, state(accumulator)?, state(ema)?],
    })
}
