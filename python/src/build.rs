//! How an optimizer is built from Python's arguments: options, speed, groups.

use std::path::PathBuf;

use lion::{Builder, Config, Group, Hyperparameter, Profile};
use lion_autotune::{Environment, Machine, Overrides};
use lion_kernels::Backend;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::{error, schedule, value};

/// How an optimizer is fast. None of it changes a bit.
#[derive(Debug, Default)]
pub(crate) struct Speed {
    pub(crate) isa: Option<String>,
    pub(crate) threads: Option<usize>,
    pub(crate) chunk: Option<usize>,
    pub(crate) profile: Option<PathBuf>,
}

impl Speed {
    /// The profile, with what is set here in place of its parts; nothing if nothing is set.
    pub(crate) fn profile(&self, py: Python<'_>) -> PyResult<Option<Profile>> {
        let backend = self.isa.as_deref().map(Backend::from_name).transpose();
        let backend = backend.map_err(|error| error::kernels(py, error))?;
        let overrides = Overrides { backend, threads: self.threads, chunk: self.chunk };
        if overrides == Overrides::default() && self.profile.is_none() {
            return Ok(None);
        }
        let environment = Environment::of_process();
        let environment = match &self.profile {
            Some(path) => Environment { profile: Some(path.clone()), no_profile: false, ..environment },
            None => environment,
        };
        Ok(Some(Profile::found_in(&environment, &Machine::detect()).overridden(&overrides)))
    }
}

/// The options as a config, and by name, which are stronger.
pub(crate) fn builder(
    config: Option<&Bound<'_, PyAny>>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Builder> {
    let mut builder = Builder::from(config.map(self::config).transpose()?.unwrap_or_default());
    for (name, object) in options.into_iter().flatten() {
        let name: String = name.extract()?;
        builder = builder.set(&name, value::from_python(&name, &object)?);
    }
    Ok(builder)
}

/// A config: the path of a file, or what Keras's `get_config` or `serialize` gives.
pub(crate) fn config(object: &Bound<'_, PyAny>) -> PyResult<Config> {
    let read = match object.is_instance_of::<PyDict>() {
        true => Config::from_json(&schedule::to_json(object)?),
        false => Config::read(object.extract::<PathBuf>()?),
    };
    read.map_err(|error| error::core(object.py(), &error))
}

/// Hyperparameters of a group, by the names of [`Group`]'s setters.
pub(crate) fn group(overrides: Option<&Bound<'_, PyDict>>) -> PyResult<Group> {
    let mut group = Group::new();
    for (name, object) in overrides.into_iter().flatten() {
        let name: String = name.extract()?;
        let hyperparameter = || match value::from_python(&name, &object)? {
            lion::options::Value::Schedule(schedule) => Ok(Hyperparameter::from(schedule)),
            _ => object.extract::<f64>().map(Hyperparameter::from),
        };
        group = match name.as_str() {
            "learning_rate_multiplier" => group.learning_rate_multiplier(object.extract()?),
            "beta_1" => group.beta_1(hyperparameter()?),
            "beta_2" => group.beta_2(hyperparameter()?),
            "weight_decay" if object.is_none() => group.no_weight_decay(),
            "weight_decay" => group.weight_decay(hyperparameter()?),
            _ => {
                return Err(PyTypeError::new_err(format!(
                    "{name:?} is not a known key; known: learning_rate_multiplier, beta_1, beta_2, weight_decay"
                )));
            }
        };
    }
    Ok(group)
}
