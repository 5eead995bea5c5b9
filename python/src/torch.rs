//! The native half of `lion_cpu.torch.Lion`: steps over PyTorch tensors on the CPU, with the state that PyTorch saves.
//!
//! Python prepares a list of parameters and their state. It contains their addresses, shapes, strides and dtypes, after a
//! check that no memory is written twice. Every step reads the tensors again and compares them with the list; it compares
//! parameter lists and state dicts by identity. If anything differs, the step writes nothing and returns false, and Python
//! prepares a new list. So slow checks run once a list. Tensors that need PyTorch's operations (other devices and dtypes,
//! subclasses) are never in the list.
//!
//! A large step releases the GIL. The list holds references to its tensors and to their memory, and the step to its
//! gradients. Calls that run Python may let other threads run, so they all come before the last comparison of addresses.

mod convert;
mod entry;
mod exchange;
mod group;
mod overlap;
mod run;

use std::collections::HashSet;
use std::ops::Range;

use lion::Profile;
use lion_kernels::with_ieee_state;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
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
    /// PyTorch's class of tensors. A gradient of another class needs a new list.
    tensor: Py<PyType>,
    /// Returns whether a tensor of a list is a negated view.
    any_negated: Py<PyAny>,
    increment_version: Py<PyAny>,
}

/// The list. Addresses of Python objects are only compared.
#[derive(Debug, Default)]
struct Prepared {
    entries: Vec<Entry>,
    /// Parameters without gradient and state. A gradient of one needs a new list.
    idle: Vec<Py<PyAny>>,
    /// The parameters of each group.
    groups: Vec<Vec<usize>>,
    /// The keys and values of the optimizer's state.
    state: Vec<(usize, usize)>,
    /// Address ranges that steps write, sorted.
    written: Vec<Range<usize>>,
}

/// A parameter for a list: its group's number, itself, its state, its name for errors, and its name for random numbers.
type Given<'py> = (usize, Bound<'py, PyAny>, Bound<'py, PyDict>, String, String);

/// Entries that are prefetched before they are read.
const AHEAD: usize = 8;

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

    /// Raises if a fork has torn the optimizer.
    fn check(&self) -> PyResult<()> {
        self.prepared.check()
    }

    /// Prepares a list. `idle` are the parameters that have had no gradient yet.
    fn prepare(
        &self,
        py: Python<'_>,
        entries: Vec<Given<'_>>,
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
            let known: Vec<_> = state.iter().map(|(key, value)| (address(&key), address(&value))).collect();
            // Another thread may have taken a state from the optimizer since Python looked. Without a list the step says so.
            let states: HashSet<_> = known.iter().map(|(_, state)| *state).collect();
            if !made.iter().all(|entry| states.contains(&entry.state.as_ptr().addr())) {
                return Ok(());
            }
            *prepared = Prepared {
                groups: lists.collect::<PyResult<_>>()?,
                state: known,
                entries: made,
                idle,
                written,
            };
            Ok(())
        })
    }

    /// Steps all parameters of the list that have a gradient, or only the parameter `only`. `scale` is the factor of the loss.
    /// Returns false if the list is out of date; nothing has been written then.
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
            let Some(pending) = self.gradients(py, prepared, &hyperparameters, only)? else {
                return Ok(false);
            };
            if pending.steps.is_empty() {
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
            let storage = object.call_method0(intern!(object.py(), "untyped_storage"))?.unbind();
            let record = self.exchange.record(&object);
            Ok::<_, PyErr>(Slot { view, object: object.unbind(), _storage: storage, record })
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

    /// Returns the gradients of this step, or that of one parameter; `None` if the list is out of date.
    fn gradients<'py>(
        &self,
        py: Python<'py>,
        prepared: &Prepared,
        groups: &[Group],
        only: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<Pending<'py>>> {
        let grad = intern!(py, "grad");
        if only.is_none() {
            for parameter in &prepared.idle {
                if !parameter.bind(py).getattr(grad)?.is_none() {
                    return Ok(None);
                }
            }
        }
        let mut pending = Pending::with_capacity(prepared.entries.len());
        for (at, entry) in prepared.entries.iter().enumerate() {
            if only.is_none()
                && let Some(ahead) = prepared.entries.get(at + AHEAD)
            {
                ahead.prefetch();
            }
            if only.is_some_and(|only| !only.is(&entry.parameter.object)) {
                continue;
            }
            // An option that asks for another state may have been set.
            let suits = groups.get(entry.group).is_some_and(|group| entry.suits(&group.formats));
            let gradient = entry.parameter.object.bind(py).getattr(grad)?;
            if suits && gradient.is_none() {
                continue;
            }
            if !suits || !gradient.get_type().is(&self.tensor) || !has_its_state(py, entry)? {
                return Ok(None);
            }
            pending.push(at, gradient);
        }
        if pending.steps.is_empty() {
            return Ok(Some(pending));
        }
        let objects = PyList::new(py, &pending.gradients)?;
        if self.any_negated.call1(py, (&objects,))?.is_truthy(py)? {
            for gradient in &mut pending.gradients {
                *gradient = copied(gradient, "resolve_neg")?;
            }
        }
        Ok(Some(pending))
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
        entry.apart = !shares || span.is_empty();
        if !entry.apart {
            *gradient = copied(gradient, "clone")?;
            let Some(copy) = self.exchange.read(gradient)? else { return Ok(false) };
            view = copy;
        }
        entry.gradient = Some(view);
        Ok(true)
    }
}

/// Returns a copy of a gradient, by a method of it.
fn copied<'py>(gradient: &Bound<'py, PyAny>, method: &str) -> PyResult<Bound<'py, PyAny>> {
    gradient.py().import("lion_cpu._torch_parallel")?.call_method1("copied", (gradient, method))
}

/// Returns whether a parameter's state holds the objects of the list.
fn has_its_state(py: Python<'_>, entry: &Entry) -> PyResult<bool> {
    let state = entry.state.bind(py);
    if state.len() != entry.len {
        return Ok(false);
    }
    for (key, known) in entry::keys(py).into_iter().zip(&entry.states) {
        // A state that was not there is not looked for: the dict would be longer.
        let Some(slot) = known else { continue };
        // SAFETY: dict and key are alive, and what is found is only compared.
        let found = unsafe { ffi::PyDict_GetItemWithError(state.as_ptr(), key.as_ptr()) };
        if found != slot.object.as_ptr() {
            return if PyErr::occurred(py) { Err(PyErr::fetch(py)) } else { Ok(false) };
        }
    }
    Ok(true)
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

impl Prepared {
    /// Returns whether groups and state hold the objects of the list.
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
            let same = match list.cast::<PyList>() {
                Ok(list) => {
                    list.len() == known.len()
                        // SAFETY: the list has the entry, which is only compared.
                        && known.iter().zip(0..).all(|(known, at)| unsafe {
                            ffi::PyList_GetItem(list.as_ptr(), at).addr() == *known
                        })
                }
                Err(_) => {
                    let objects = list.try_iter()?.map(|it| Ok(address(&it?)));
                    objects.collect::<PyResult<Vec<_>>>()? == *known
                }
            };
            if !same {
                return Ok(false);
            }
        }
        let (mut at, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        Ok(self.state.iter().all(|known| {
            // SAFETY: the dict is not changed meanwhile, and its keys and values are only compared.
            let more = unsafe { ffi::PyDict_Next(state.as_ptr(), &raw mut at, &raw mut key, &raw mut value) };
            more != 0 && (key.addr(), value.addr()) == *known
        }))
    }

    /// Returns whether the list has the parameter with its present state.
    fn knows(&self, parameter: &Bound<'_, PyAny>, state: &Bound<'_, PyDict>) -> PyResult<bool> {
        let Some(entry) = self.entries.iter().find(|entry| parameter.is(&entry.parameter.object)) else {
            return Ok(false);
        };
        Ok(state.get_item(parameter)?.is_some_and(|own| own.is(&entry.state)))
    }
}
