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
mod host;
mod look;
mod overlap;
mod ready;
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
use self::host::Host;
use self::ready::Ready;
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
    host: Host,
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
    /// The tasks of the last step.
    ready: Option<Ready>,
}

/// A parameter for a list: its group's number, itself, its state, its name for errors, and its name for random numbers.
type Given<'py> = (usize, Bound<'py, PyAny>, Bound<'py, PyDict>, String, String);

fn address(object: &Bound<'_, PyAny>) -> usize {
    object.as_ptr().addr()
}

#[pymethods]
impl TorchSteps {
    /// `functions` are the addresses of `torch_parallel_for` and `torch_get_num_threads`, or zeros.
    #[new]
    fn new(
        tensor: Bound<'_, PyType>,
        count_modes: Py<PyAny>,
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
                host: Host::new(tensor, count_modes, increment_version)?,
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
                ready: None,
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
            // Only a step that ends well leaves its tasks to the next one.
            let last = prepared.ready.take();
            let Some(pending) = self.look(py, prepared, &hyperparameters, only)? else {
                return Ok(false);
            };
            if !pending.steps.is_empty() {
                self.run(py, prepared, &hyperparameters, pending, last, scale)?;
            }
            Ok(true)
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
            let storage = object.call_method0(intern!(object.py(), "untyped_storage"))?;
            let record = self.exchange.record(&object);
            let memory =
                storage.getattr(intern!(object.py(), "_cdata")).and_then(|address| address.extract());
            Ok::<_, PyErr>(Slot {
                class: object.get_type_ptr().addr(),
                view,
                object: object.unbind(),
                _storage: storage.unbind(),
                record,
                memory: memory.unwrap_or(0),
            })
        };
        let parameter = slot(parameter, "parameter")?;
        if !parameter.view.is_float() {
            return Err(refused(&format!("the parameter has the dtype {}", parameter.view.dtype)));
        }
        let mut states = [const { None }; STATES];
        for (key, place) in entry::keys(state.py()).into_iter().zip(&mut states) {
            if let Some(object) = state.get_item(key)? {
                *place = Some(Box::new(slot(object, key.to_str()?)?));
            }
        }
        // Scales are not elements, and have no gaps.
        let [elements @ .., scale] = &states;
        let flat = parameter.view.is_dense()
            && elements.iter().flatten().all(|slot| parameter.view.is_alike(&slot.view))
            && scale.as_ref().is_none_or(|slot| slot.view.is_row_major());
        let row_major = parameter.view.is_row_major();
        let held = |object: &Bound<'_, PyAny>| states.iter().flatten().any(|slot| object.is(&slot.object));
        let items =
            state.iter().map(|(key, value)| (address(&key), if held(&value) { address(&value) } else { 0 }));
        let items = items.collect();
        let entry = Entry {
            group,
            name: name.clone(),
            key,
            state: state.unbind(),
            items,
            parameter,
            states,
            gradient: None,
            flat,
            row_major,
        };
        match entry.fault() {
            Some(fault) => Err(refused(&fault)),
            None => Ok(entry),
        }
    }
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
