//! `lion_cpu.numpy.Lion`: the core's optimizer over named arrays of numpy, or of any library with DLPack.

mod state;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use lion::{Dtype, GroupId, VariableOptions};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping};

use crate::build::{Speed, builder, group};
use crate::call::{Access, Call, Variable};
use crate::constraint::Constraint;
use crate::metrics::Metrics;
use crate::shared::Shared;
use crate::{dlpack, error, value};

/// The optimizer below, and the groups that Python knows by number.
#[derive(Debug)]
struct Core {
    lion: lion::Lion,
    groups: Vec<GroupId>,
}

/// The Lion optimizer over named arrays.
#[pyclass(frozen, weakref, module = "lion_cpu.numpy", name = "Lion")]
#[derive(Debug)]
pub(crate) struct Optimizer {
    core: Shared<Core>,
    /// Locked for a moment and under the GIL only, so no thread waits for it without the GIL.
    variables: Mutex<Arc<Vec<Arc<Variable>>>>,
}

impl Optimizer {
    fn variables(&self) -> Arc<Vec<Arc<Variable>>> {
        self.variables.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn find(&self, py: Python<'_>, name: &str) -> PyResult<Arc<Variable>> {
        let variables = self.variables();
        let found = variables.iter().find(|variable| variable.name == name);
        found.cloned().ok_or_else(|| error::name(py, &format!("the variable {name:?} does not exist")))
    }

    /// Asks the core something that cannot fail.
    fn ask<R: Send>(&self, py: Python<'_>, question: impl FnOnce(&lion::Lion) -> R + Send) -> PyResult<R> {
        error::guarded(|| self.core.with(py, |core| Ok(question(&core.lion))))
    }

    fn register(
        &self,
        name: String,
        array: &Bound<'_, PyAny>,
        group: usize,
        options: VariableOptions,
    ) -> PyResult<()> {
        let py = array.py();
        let unregistered = || {
            let tensor = dlpack::read(array)?;
            match tensor.writable {
                true => Ok(tensor),
                false => Err(PyTypeError::new_err("is read-only; expected a writable array")),
            }
        };
        let tensor = unregistered().map_err(|error| {
            let message = format!("the parameter of {name:?} {}", error.value(py));
            error.get_type(py).call1((message,)).map_or_else(|error| error, PyErr::from_value)
        })?;
        let id = self.core.with(py, |core| {
            let (index, groups) = (group, core.groups.len());
            let group = core.groups.get(index).copied().ok_or(lion::Error::UnknownGroup { index, groups })?;
            core.lion.register_with(&name, &tensor.shape, tensor.dtype, VariableOptions { group, ..options })
        })?;
        let variable = Variable { id, name, shape: tensor.shape.clone(), array: array.clone().unbind() };
        let mut variables = self.variables.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut variables).push(Arc::new(variable));
        Ok(())
    }

    /// The arrays of all variables, without gradients.
    fn arrays(&self, py: Python<'_>, access: Access) -> PyResult<(Arc<Vec<Arc<Variable>>>, Call)> {
        let variables = self.variables();
        let call = Call::read(py, access, variables.iter().map(|variable| (&**variable, None)))?;
        Ok((variables, call))
    }
}

#[pymethods]
impl Optimizer {
    #[new]
    #[pyo3(signature = (parameters=None, /, *, config=None, isa=None, threads=None, chunk=None, profile=None, **options))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        parameters: Option<&Bound<'_, PyAny>>,
        config: Option<&Bound<'_, PyAny>>,
        isa: Option<String>,
        threads: Option<usize>,
        chunk: Option<usize>,
        profile: Option<PathBuf>,
        options: Option<&Bound<'_, PyDict>>,
        py: Python<'_>,
    ) -> PyResult<Self> {
        error::guarded(|| {
            let mut builder = builder(config, options)?;
            if let Some(profile) = (Speed { isa, threads, chunk, profile }).profile(py)? {
                builder = builder.profile(profile);
            }
            let lion = builder.build().map_err(|error| error::core(py, &error))?;
            let core = Core { lion, groups: vec![GroupId::default()] };
            let optimizer = Optimizer { core: Shared::new(core), variables: Mutex::default() };
            for item in
                parameters.map(|it| it.cast::<PyMapping>()?.items()).transpose()?.into_iter().flatten()
            {
                let (name, array): (String, Bound<'_, PyAny>) = item.extract()?;
                optimizer.register(name, &array, 0, VariableOptions::default())?;
            }
            Ok(optimizer)
        })
    }

    #[pyo3(signature = (name, array, *, group=0, momentum_dtype=None, exclude_from_weight_decay=false,
        overwrite_with_gradient=false, constraint=None))]
    #[allow(clippy::too_many_arguments)]
    /// Adds a variable, whose array the steps change. Its state is zero.
    fn add(
        &self,
        name: String,
        array: &Bound<'_, PyAny>,
        group: usize,
        momentum_dtype: Option<&str>,
        exclude_from_weight_decay: bool,
        overwrite_with_gradient: bool,
        constraint: Option<&Bound<'_, Constraint>>,
    ) -> PyResult<()> {
        error::guarded(|| {
            let momentum_dtype = momentum_dtype.map(str::parse::<Dtype>).transpose();
            let options = VariableOptions {
                momentum_dtype: momentum_dtype.map_err(|error| error::kernels(array.py(), error))?,
                exclude_from_weight_decay,
                overwrite_with_gradient,
                constraint: constraint.map(|it| it.get().0.clone()),
                ..VariableOptions::default()
            };
            self.register(name, array, group, options)
        })
    }

    /// Adds a group of hyperparameters, and returns its number.
    #[pyo3(signature = (**overrides))]
    fn add_group(&self, py: Python<'_>, overrides: Option<&Bound<'_, PyDict>>) -> PyResult<usize> {
        error::guarded(|| {
            let group = group(overrides)?;
            self.core.with(py, |core| {
                core.groups.push(core.lion.add_group(group)?);
                Ok(core.groups.len() - 1)
            })
        })
    }

    /// Sets all hyperparameters of a group.
    #[pyo3(signature = (index, /, **overrides))]
    fn set_group(&self, py: Python<'_>, index: usize, overrides: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        error::guarded(|| {
            let group = group(overrides)?;
            self.core.with(py, |core| {
                let groups = core.groups.len();
                let id = core.groups.get(index).ok_or(lion::Error::UnknownGroup { index, groups })?;
                core.lion.set_group(*id, group)
            })
        })
    }

    /// Moves the parameters against their gradients, by name. A variable without a gradient, or with None, stays.
    fn step(&self, py: Python<'_>, gradients: &Bound<'_, PyAny>) -> PyResult<Metrics> {
        error::guarded(|| {
            let gradients = gradients.cast::<PyMapping>()?;
            let variables = self.variables();
            let given = gradients.len()?;
            let mut found = 0;
            let mut pairs = Vec::with_capacity(variables.len());
            for variable in variables.iter().filter(|_| given > 0) {
                let gradient = match gradients.get_item(&variable.name) {
                    Ok(gradient) => {
                        found += 1;
                        Some(gradient).filter(|gradient| !gradient.is_none())
                    }
                    Err(error) if error.is_instance_of::<pyo3::exceptions::PyKeyError>(py) => None,
                    Err(error) => return Err(error),
                };
                pairs.push((&**variable, gradient));
            }
            if found < given {
                for name in gradients.keys()?.iter() {
                    let name: String = name.extract()?;
                    if !variables.iter().any(|variable| variable.name == name) {
                        return Err(error::name(py, &format!("the gradient {name:?} is of no variable")));
                    }
                }
            }
            let mut call = Call::read(py, Access::Write, pairs.into_iter())?;
            let metrics = self.core.with(py, |core| call.lend(|updates| core.lion.apply(updates)));
            metrics.map(Metrics)
        })
    }

    /// Makes each parameter its moving average, as at the end of training.
    fn finalize(&self, py: Python<'_>) -> PyResult<()> {
        error::guarded(|| {
            let (_, mut call) = self.arrays(py, Access::Write)?;
            self.core.with(py, |core| call.lend(|updates| core.lion.finalize_variable_values(updates)))
        })
    }

    /// Sets an option by its name, from the next step on.
    fn set(&self, py: Python<'_>, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        error::guarded(|| {
            let value = value::from_python(name, value)?;
            self.core.with(py, |core| core.lion.set(name, value))
        })
    }

    /// The value of an option by its name.
    fn get<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        error::guarded(|| {
            let value = self.core.with(py, |core| core.lion.config().get(name))?;
            value::to_python(py, value)
        })
    }

    /// The options as JSON: Keras's, with an object `lion` for what Keras lacks, or Keras's alone.
    #[pyo3(signature = (*, keras=false))]
    fn to_json(&self, py: Python<'_>, keras: bool) -> PyResult<String> {
        error::guarded(|| {
            self.core.with(py, |core| {
                let config = core.lion.config();
                if keras { config.to_json() } else { config.to_lion_json() }
            })
        })
    }

    /// The learning rate of the next step.
    #[getter]
    fn learning_rate(&self, py: Python<'_>) -> PyResult<f32> {
        self.ask(py, lion::Lion::learning_rate)
    }

    #[setter]
    fn set_learning_rate(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.set(py, "learning_rate", value)
    }

    /// The number of steps so far.
    #[getter]
    fn iterations(&self, py: Python<'_>) -> PyResult<u64> {
        self.ask(py, lion::Lion::iterations)
    }

    #[setter]
    fn set_iterations(&self, py: Python<'_>, iterations: u64) -> PyResult<()> {
        error::guarded(|| {
            self.core.with(py, |core| {
                core.lion.set_iterations(iterations);
                Ok(())
            })
        })
    }

    /// The dynamic loss scale, and the finite steps since it changed.
    #[getter]
    fn dynamic_loss_scale(&self, py: Python<'_>) -> PyResult<Option<(f32, u64)>> {
        self.ask(py, lion::Lion::dynamic_loss_scale)
    }

    /// The instruction set.
    #[getter]
    fn isa(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.ask(py, |lion| lion.backend().name())
    }

    /// The loss times the loss scale of the next step.
    fn scale_loss(&self, py: Python<'_>, loss: f32) -> PyResult<f32> {
        self.ask(py, |lion| lion.scale_loss(loss))
    }

    /// Names and arrays, in the order of registration.
    #[getter]
    fn parameters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let parameters = PyDict::new(py);
        for variable in self.variables().iter() {
            parameters.set_item(&variable.name, &variable.array)?;
        }
        Ok(parameters)
    }

    /// Momentum, average, accumulator and low halves of a variable, as new arrays. A momentum of 8 bits is in float32.
    fn state<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyDict>> {
        error::guarded(|| self.read_state(py, name))
    }

    /// Overwrites state of a variable.
    #[pyo3(signature = (name, **tensors))]
    fn set_state(&self, py: Python<'_>, name: &str, tensors: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        error::guarded(|| self.write_state(py, name, tensors))
    }

    /// The share of a parameter's elements that the next step cannot move.
    fn stalled(&self, py: Python<'_>, name: &str) -> PyResult<f64> {
        error::guarded(|| self.stalled_share(py, name))
    }

    /// The share of a gradient's elements that the next step follows.
    fn sign_agreement(&self, py: Python<'_>, name: &str, gradient: &Bound<'_, PyAny>) -> PyResult<f64> {
        error::guarded(|| self.agreement(py, name, gradient))
    }

    /// Writes a checkpoint, with the parameters if asked for.
    #[pyo3(signature = (path, *, parameters=true))]
    fn save(&self, py: Python<'_>, path: PathBuf, parameters: bool) -> PyResult<()> {
        error::guarded(|| self.write_checkpoint(py, path, parameters))
    }

    /// Goes on from a checkpoint, and takes its parameters if asked for.
    #[pyo3(signature = (path, *, parameters=true))]
    fn load(&self, py: Python<'_>, path: PathBuf, parameters: bool) -> PyResult<()> {
        error::guarded(|| self.read_checkpoint(py, path, parameters))
    }

    /// Takes the momentum of another program's safetensors file: "torch", "keras", "optax" or patterns of names.
    #[pyo3(signature = (path, names, *, rename=None))]
    fn import_momentum(
        &self,
        py: Python<'_>,
        path: PathBuf,
        names: &Bound<'_, PyAny>,
        rename: Option<Vec<(String, String)>>,
    ) -> PyResult<()> {
        error::guarded(|| self.import(py, path, names, rename))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (steps, variables) = (self.iterations(py)?, self.variables().len());
        Ok(format!("<lion_cpu.numpy.Lion of {variables} variables after {steps} steps>"))
    }
}
