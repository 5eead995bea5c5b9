//! The look at all tensors before a step: whether they are where the list has them, and which gradients there are.
//!
//! Most steps take one pass. It runs no Python code, so what it compared still holds when it ends. If a gradient has moved
//! or Python code may have run, a second pass compares everything again.

use std::ops::Range;

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

use super::entry::{Entry, Slot};
use super::exchange::Exchange;
use super::group::Group;
use super::host::NoCollection;
use super::{Prepared, TorchSteps};
use crate::engine::Cycle;

/// The gradients of a step, of the entries that have one.
pub(super) struct Pending<'py> {
    /// The places of their entries in the list.
    pub(super) steps: Vec<usize>,
    pub(super) gradients: Vec<Bound<'py, PyAny>>,
    /// Positions, in this list, of gradients that are not where the last ones were.
    pub(super) moved: Vec<usize>,
    /// Positions of the parameters in their cycles; empty if no group has cycles.
    pub(super) cycles: Vec<Cycle>,
    /// Held until the step begins, so that what the look has found stays so.
    pub(super) collection: Option<NoCollection<'py>>,
}

/// Entries that are prefetched before they are read.
const AHEAD: usize = 8;

impl TorchSteps {
    /// Returns the gradients of this step, or that of one parameter; `None` if the list is out of date.
    pub(super) fn look<'py>(
        &self,
        py: Python<'py>,
        prepared: &mut Prepared,
        groups: &[Group],
        only: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<Pending<'py>>> {
        let counted = groups.iter().any(Group::is_counted);
        let runs_python = counted || !self.exchange.is_table() || self.host.has_modes(py)?;
        let collection = Some(NoCollection::new(py));
        if only.is_none() {
            for parameter in &prepared.idle {
                if !self.host.gradient(parameter.bind(py))?.is_none() {
                    return Ok(None);
                }
            }
        }
        let Prepared { entries, written, .. } = prepared;
        let expected = if only.is_none() { entries.len() } else { 1 };
        let mut pending = Pending {
            steps: Vec::with_capacity(expected),
            gradients: Vec::with_capacity(expected),
            moved: Vec::new(),
            cycles: Vec::new(),
            collection,
        };
        for (at, entry) in entries.iter().enumerate() {
            match only {
                None => entries.get(at + AHEAD).into_iter().for_each(Entry::prefetch),
                Some(only) if only.is(&entry.parameter.object) => {}
                Some(_) => continue,
            }
            // An option that asks for another state may have been set.
            if !groups.get(entry.group).is_some_and(|group| entry.suits(&group.formats)) {
                return Ok(None);
            }
            let parameter = entry.parameter.object.bind(py);
            if parameter.get_type_ptr().addr() != entry.parameter.class {
                return Ok(None);
            }
            let gradient = self.host.gradient(parameter)?;
            if gradient.is_none() {
                continue;
            }
            if !self.host.is_tensor(&gradient) || !entry.has_its_state(py) {
                return Ok(None);
            }
            if !runs_python && !is_still(self.exchange, py, entry)? {
                return Ok(None);
            }
            if runs_python || !self.has_its_gradient(entry, &gradient)? {
                pending.moved.push(pending.steps.len());
            }
            pending.steps.push(at);
            pending.gradients.push(gradient);
        }
        let negated = !pending.steps.is_empty() && self.host.any_negated(py, &pending.gradients)?;
        if !negated && pending.moved.is_empty() {
            return Ok(Some(pending));
        }
        pending.collection = None;
        if negated {
            for gradient in &mut pending.gradients {
                *gradient = copied(gradient, "resolve_neg")?;
            }
            pending.moved = (0..pending.steps.len()).collect();
        }
        let Pending { steps, gradients, moved, cycles, collection } = &mut pending;
        for &place in &*moved {
            let found = steps.get(place).and_then(|&at| entries.get_mut(at));
            let (Some(entry), Some(gradient)) = (found, gradients.get_mut(place)) else { return Ok(None) };
            if !self.has_its_gradient(entry, gradient)? && !self.renew(written, entry, gradient)? {
                return Ok(None);
            }
        }
        if counted {
            for &at in &*steps {
                let found = entries.get(at).and_then(|entry| Some((entry, groups.get(entry.group)?)));
                let Some((entry, group)) = found else { return Ok(None) };
                cycles.push(group.cycle(entry.state.bind(py))?);
            }
        }
        // From here on nothing lets another thread run.
        *collection = Some(NoCollection::new(py));
        for (&at, gradient) in steps.iter().zip(gradients) {
            let Some(entry) = entries.get(at) else { return Ok(None) };
            let Some(known) = &entry.gradient else { return Ok(None) };
            if !self.exchange.is_still(gradient, &known.view)? || !is_still(self.exchange, py, entry)? {
                return Ok(None);
            }
        }
        Ok(Some(pending))
    }

    /// Returns whether a gradient is where the last one was, which was used in place.
    fn has_its_gradient(&self, entry: &Entry, gradient: &Bound<'_, PyAny>) -> PyResult<bool> {
        match &entry.gradient {
            Some(known) if known.apart => self.exchange.is_still(gradient, &known.view),
            _ => Ok(false),
        }
    }

    /// Reads a gradient that is not where the last one was. Returns false if it needs a new list.
    fn renew(
        &self,
        written: &[Range<usize>],
        entry: &mut Entry,
        gradient: &mut Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let Some(mut view) = self.exchange.read(gradient)? else { return Ok(false) };
        if view.shape != entry.parameter.view.shape || !view.is_float() {
            return Ok(false);
        }
        let span = view.span();
        if !holds(gradient, &span)? {
            return Ok(false);
        }
        let after = written.partition_point(|written| written.end <= span.start);
        let shares = written.get(after).is_some_and(|written| written.start < span.end);
        let apart = !shares || span.is_empty();
        if !apart {
            *gradient = copied(gradient, "clone")?;
            let Some(copy) = self.exchange.read(gradient)? else { return Ok(false) };
            view = copy;
        }
        entry.gradient = Some(super::entry::Gradient {
            view,
            apart,
            object: gradient.as_ptr().addr(),
            record: self.exchange.record(gradient),
        });
        Ok(true)
    }
}

/// Returns whether the tensors that a step writes are where the list has them.
#[inline]
fn is_still(exchange: Exchange, py: Python<'_>, entry: &Entry) -> PyResult<bool> {
    for Slot { object, view, class, .. } in entry.written() {
        let object = object.bind(py);
        if object.get_type_ptr().addr() != *class || !exchange.is_still(object, view)? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Entry {
    /// Returns whether the parameter's state holds the objects of the list. Runs no Python code.
    #[inline]
    fn has_its_state(&self, py: Python<'_>) -> bool {
        let state = self.state.bind(py);
        let (mut at, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the dict is not changed meanwhile, and its keys and values are only compared.
        let mut next = || unsafe {
            let more = ffi::PyDict_Next(state.as_ptr(), &raw mut at, &raw mut key, &raw mut value);
            (more != 0).then(|| (key.addr(), value.addr()))
        };
        let known = &self.items;
        known.iter().all(|&(key, value)| {
            next().is_some_and(|found| found.0 == key && (value == 0 || found.1 == value))
        }) && next().is_none()
    }
}

/// Returns a copy of a gradient, by a method of it.
fn copied<'py>(gradient: &Bound<'py, PyAny>, method: &str) -> PyResult<Bound<'py, PyAny>> {
    gradient.py().import("lion_cpu._torch_parallel")?.call_method1("copied", (gradient, method))
}

/// Returns whether the tensor's storage contains all its elements. A storage can be resized under its tensors.
fn holds(tensor: &Bound<'_, PyAny>, span: &Range<usize>) -> PyResult<bool> {
    let py = tensor.py();
    if span.is_empty() {
        return Ok(true);
    }
    let storage = tensor.call_method0(intern!(py, "untyped_storage"))?;
    let start: usize = storage.call_method0(intern!(py, "data_ptr"))?.extract()?;
    let bytes: usize = storage.call_method0(intern!(py, "nbytes"))?.extract()?;
    Ok(start <= span.start && span.end <= start.saturating_add(bytes))
}
