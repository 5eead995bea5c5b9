//! The fast half of `lion_cpu.torch.Lion`: steps over tensors of PyTorch that lie on the CPU, state included.
//!
//! A list is prepared: each parameter with its state, where they lay, and that no memory is written twice. Every step reads
//! the tensors anew (addresses, shapes, strides, dtypes, and by identity the parameter lists and the state dicts) and goes
//! on only if nothing has changed. Otherwise it has written nothing and says so; Python prepares a new list, and its checks
//! are the place for what is rare. What PyTorch alone can do (other devices and dtypes, subclasses) is never in the list.
//!
//! The GIL is released while a large step runs. The list holds references to its tensors, and the step to the gradients;
//! a step that releases the GIL also holds the memory that they had. Whatever runs Python, and so lets other threads run,
//! comes before the last look at the addresses.

mod convert;
mod entry;
mod exchange;
mod group;
mod overlap;
mod run;

use std::ops::Range;

use lion::Profile;
use lion_kernels::with_ieee_state;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyType};

pub(crate) use self::convert::{convert_momentum, decay_rate};
use self::entry::{Entry, STATES, Slot};
use self::exchange::Exchange;
use self::group::Group;
use self::run::Pending;
use crate::engine::{Engine, Threads};
use crate::error;
use crate::shared::Shared;

/// Steps of one optimizer.
#[pyclass(frozen, module = "lion_cpu.torch")]
#[derive(Debug)]
pub(crate) struct TorchSteps {
    prepared: Shared<Prepared>,
    exchange: Exchange,
    engine: Engine,
    /// PyTorch's class of tensors; gradients of another are Python's to judge.
    tensor: Py<PyType>,
    /// Says of a list of tensors whether one has its negation pending.
    any_negated: Py<PyAny>,
    increment_version: Py<PyAny>,
}

/// The list. Addresses of Python's objects are only ever compared.
#[derive(Debug, Default)]
struct Prepared {
    entries: Vec<Entry>,
    /// Parameters without an entry whose gradients, if they get one, need a new list.
    idle: Vec<Py<PyAny>>,
    /// The parameters of each group.
    groups: Vec<Vec<usize>>,
    /// The keys and values of the optimizer's state.
    state: Vec<(usize, usize)>,
    /// The memory that steps write, in order.
    written: Vec<Range<usize>>,
}

fn address(object: &Bound<'_, PyAny>) -> usize {
    object.as_ptr().addr()
}

#[pymethods]
impl TorchSteps {
    /// `functions` are the addresses of `torch_parallel_for` and `torch_get_num_threads`, or zeros.
    #[new]
    fn new(
        tensor: Bound<'_, PyType>,
        any_negated: Py<PyAny>,
        increment_version: Py<PyAny>,
        functions: (usize, usize),
    ) -> PyResult<Self> {
        error::guarded(|| {
            Ok(TorchSteps {
                prepared: Shared::new(Prepared::default()),
                exchange: Exchange::of(&tensor),
                engine: Engine {
                    profile: Profile::load(),
                    // SAFETY: `lion_cpu.torch` looks the names up in PyTorch's own library.
                    threads: unsafe { Threads::new(functions.0, functions.1) },
                },
                tensor: tensor.unbind(),
                any_negated,
                increment_version,
            })
        })
    }

    /// Prepares a list: for each parameter its group, itself, its state, its name for errors and for random numbers. `idle`
    /// are the parameters that had no gradient yet.
    fn prepare(
        &self,
        py: Python<'_>,
        entries: Vec<(usize, Bound<'_, PyAny>, Bound<'_, PyDict>, String, String)>,
        idle: Vec<Py<PyAny>>,
        groups: &Bound<'_, PyList>,
        state: &Bound<'_, PyDict>,
    ) -> PyResult<()> {
        self.prepared.with_gil(py, |prepared| {
            *prepared = Prepared::default();
            let mut made = Vec::with_capacity(entries.len());
            for (group, parameter, state, name, key) in entries {
                made.push(self.entry(group, parameter, state, name, key)?);
            }
            let written = overlap::written(&made)?;
            let lists = groups.iter().map(|group| {
                let list = group.cast::<PyDict>()?.get_item(intern!(py, "params"))?;
                let list = list.ok_or_else(|| PyRuntimeError::new_err("a parameter group without params"))?;
                list.try_iter()?.map(|parameter| Ok(address(&parameter?))).collect::<PyResult<Vec<_>>>()
            });
            *prepared = Prepared {
                groups: lists.collect::<PyResult<_>>()?,
                state: state.iter().map(|(key, value)| (address(&key), address(&value))).collect(),
                entries: made,
                idle,
                written,
            };
            Ok(())
        })
    }

    /// Steps all parameters of the list that have a gradient, or one of them. `scale` is what the loss was multiplied by.
    /// Returns whether it was done: if not,
    /// nothing has been written, and the list must be prepared anew.
    #[pyo3(signature = (groups, state, scale=None, only=None))]
    fn step(
        &self,
        py: Python<'_>,
        groups: &Bound<'_, PyList>,
        state: &Bound<'_, PyDict>,
        scale: Option<f64>,
        only: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        self.prepared.with_gil(py, |prepared| {
            let current = match only {
                None => prepared.is_current(py, groups, state)?,
                Some(parameter) => prepared.knows(parameter, state)?,
            };
            if !current {
                return Ok(false);
            }
            // PyTorch may have set the thread to flush subnormal numbers, which a small learning rate is.
            let (hyperparameters, scale) = with_ieee_state(|| {
                let scale = scale.map(|scale| scale as f32);
                let read = groups.iter().map(|group| Group::read(group.cast()?, scale));
                Ok::<_, PyErr>((read.collect::<PyResult<Vec<_>>>()?, scale))
            })?;
            // An option that asks for another state has been set.
            let suits =
                |entry: &Entry| hyperparameters.get(entry.group).is_some_and(|it| entry.suits(&it.formats));
            if !prepared.entries.iter().all(suits) {
                return Ok(false);
            }
            let Some(pending) = self.gradients(py, prepared, only)? else { return Ok(false) };
            if pending.is_empty() {
                return Ok(true);
            }
            self.run(py, prepared, &hyperparameters, pending, scale)
        })
    }
}

impl TorchSteps {
    fn entry(
        &self,
        group: usize,
        parameter: Bound<'_, PyAny>,
        state: Bound<'_, PyDict>,
        name: String,
        key: String,
    ) -> PyResult<Entry> {
        let refused = |what: &str| PyRuntimeError::new_err(format!("{name}: {what}"));
        let slot = |object: Bound<'_, PyAny>, what: &str| {
            let view = self.exchange.read(&object)?;
            let view = view
                .ok_or_else(|| refused(&format!("the {what} has no memory on the CPU in a known dtype")))?;
            Ok::<_, PyErr>(Slot { view, object: object.unbind() })
        };
        let parameter = slot(parameter, "parameter")?;
        if !parameter.view.is_float() {
            return Err(refused(&format!("the parameter has the dtype {}", parameter.view.dtype)));
        }
        let mut states = [const { None }; STATES];
        for (key, place) in entry::keys(state.py()).into_iter().zip(&mut states) {
            if let Some(object) = state.get_item(key)? {
                *place = Some(slot(object, key.to_str()?)?);
            }
        }
        // Scales are not elements, and have no gaps.
        let [elements @ .., scale] = &states;
        let flat = parameter.view.is_dense()
            && elements.iter().flatten().all(|slot| parameter.view.is_alike(&slot.view))
            && scale.as_ref().is_none_or(|slot| slot.view.is_row_major());
        let row_major = parameter.view.is_row_major();
        let len = state.len();
        let entry = Entry {
            group,
            name: name.clone(),
            key,
            state: state.unbind(),
            len,
            parameter,
            states,
            gradient: None,
            apart: false,
            flat,
            row_major,
        };
        match entry.fault() {
            Some(fault) => Err(refused(&fault)),
            None => Ok(entry),
        }
    }

    /// The gradients of this step, or of one parameter; nothing if the list is no longer true.
    fn gradients(
        &self,
        py: Python<'_>,
        prepared: &mut Prepared,
        only: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<Pending>> {
        let grad = intern!(py, "grad");
        if only.is_none() {
            for parameter in &prepared.idle {
                if !parameter.bind(py).getattr(grad)?.is_none() {
                    return Ok(None);
                }
            }
        }
        let mut found = Vec::new();
        for (at, entry) in prepared.entries.iter().enumerate() {
            if only.is_some_and(|only| !only.is(&entry.parameter.object)) {
                continue;
            }
            let gradient = entry.parameter.object.bind(py).getattr(grad)?;
            if gradient.is_none() {
                continue;
            }
            if !gradient.get_type().is(&self.tensor) || !has_its_state(py, entry)? {
                return Ok(None);
            }
            found.push((at, gradient));
        }
        let objects = PyList::new(py, found.iter().map(|(_, gradient)| gradient))?;
        if !found.is_empty() && self.any_negated.call1(py, (&objects,))?.is_truthy(py)? {
            for (place, (_, gradient)) in found.iter_mut().enumerate() {
                *gradient = gradient.call_method0("resolve_neg")?;
                objects.set_item(place, &*gradient)?;
            }
        }
        let mut steps = Vec::with_capacity(found.len());
        for (place, (at, mut gradient)) in found.into_iter().enumerate() {
            steps.push(at);
            let Some(entry) = prepared.entries.get_mut(at) else { return Ok(None) };
            if let (true, Some(known)) = (entry.apart, &entry.gradient)
                && self.exchange.is_still(&gradient, known)?
            {
                continue;
            }
            let Some(mut view) = self.exchange.read(&gradient)? else { return Ok(None) };
            if view.shape != entry.parameter.view.shape || !view.is_float() {
                return Ok(None);
            }
            let span = view.span();
            if !holds(&gradient, &span)? {
                return Ok(None);
            }
            let after = prepared.written.partition_point(|written| written.end <= span.start);
            let shares = prepared.written.get(after).is_some_and(|written| written.start < span.end);
            entry.apart = !shares || span.is_empty();
            if !entry.apart {
                gradient = gradient.call_method0("clone")?;
                objects.set_item(place, &gradient)?;
                let Some(copy) = self.exchange.read(&gradient)? else { return Ok(None) };
                view = copy;
            }
            entry.gradient = Some(view);
        }
        Ok(Some(Pending { steps, objects: objects.unbind() }))
    }
}

/// Whether a parameter's state holds the same objects as when the list was made.
fn has_its_state(py: Python<'_>, entry: &Entry) -> PyResult<bool> {
    let state = entry.state.bind(py);
    if state.len() != entry.len {
        return Ok(false);
    }
    for (key, known) in entry::keys(py).into_iter().zip(&entry.states) {
        // A state that was not there is not looked for: the dict would be longer.
        if let Some(slot) = known
            && !state.get_item(key)?.is_some_and(|now| now.is(&slot.object))
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the tensor's storage reaches to the end of its elements: a storage can be resized under its tensors.
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

impl Prepared {
    /// Whether groups and state hold the same objects as when the list was made.
    fn is_current(
        &self,
        py: Python<'_>,
        groups: &Bound<'_, PyList>,
        state: &Bound<'_, PyDict>,
    ) -> PyResult<bool> {
        if self.groups.len() != groups.len() || self.groups.is_empty() || self.state.len() != state.len() {
            return Ok(false);
        }
        for (known, group) in self.groups.iter().zip(groups.iter()) {
            let Some(list) = group.cast::<PyDict>()?.get_item(intern!(py, "params"))? else {
                return Ok(false);
            };
            let mut known = known.iter();
            for parameter in list.try_iter()? {
                if known.next() != Some(&address(&parameter?)) {
                    return Ok(false);
                }
            }
            if known.next().is_some() {
                return Ok(false);
            }
        }
        Ok(state
            .iter()
            .zip(&self.state)
            .all(|((key, value), known)| (address(&key), address(&value)) == *known))
    }

    /// Whether the list has the parameter with the state that it has now.
    fn knows(&self, parameter: &Bound<'_, PyAny>, state: &Bound<'_, PyDict>) -> PyResult<bool> {
        let Some(entry) = self.entries.iter().find(|entry| parameter.is(&entry.parameter.object)) else {
            return Ok(false);
        };
        Ok(state.get_item(parameter)?.is_some_and(|own| own.is(&entry.state)))
    }
}
