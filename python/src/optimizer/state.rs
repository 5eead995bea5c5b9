//! The state of `lion_cpu.numpy.Lion`: as arrays, as checkpoints, and from other programs.

use std::path::PathBuf;

use lion::Dtype;
use lion::checkpoint::{Checkpoint, MomentumMapping, Tensor as Saved, import_momentum};
use lion_kernels::{Backend, Task, TensorRef};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use super::Optimizer;
use crate::call::{self, Access, Call};
use crate::error;

impl Optimizer {
    /// Copies of a variable's state.
    pub(super) fn read_state<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyDict>> {
        let variable = self.find(py, name)?;
        let copies = self.core.with(py, |core| {
            let Some(view) = core.lion.view(variable.id) else { return Ok(Vec::new()) };
            let tensors = [
                ("momentum", view.momentum),
                ("ema", view.ema.map(TensorRef::from)),
                ("accumulator", view.accumulator.map(TensorRef::from)),
                ("low", view.low.map(TensorRef::from)),
            ];
            Ok(tensors.into_iter().filter_map(|(key, tensor)| Some((key, bytes(tensor?)))).collect())
        })?;
        let state = PyDict::new(py);
        let array = py.import("lion_cpu._arrays")?.getattr("array")?;
        for (key, (dtype, bytes)) in copies {
            let bytes = PyBytes::new(py, &bytes);
            state.set_item(key, array.call1((dtype, bytes, variable.shape.clone()))?)?;
        }
        Ok(state)
    }

    /// Overwrites state of a variable.
    pub(super) fn write_state(
        &self,
        py: Python<'_>,
        name: &str,
        tensors: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let variable = self.find(py, name)?;
        let mut given = Vec::new();
        for (key, array) in tensors.into_iter().flatten() {
            let key: String = key.extract()?;
            let tensor = call::read(&key, &variable, &array)?;
            given.push((key, tensor.to_dense().map_err(|error| error::kernels(py, error))?));
        }
        self.core.with(py, |core| {
            let unknown = |name: &str| lion::Error::State {
                tensor: name.into(),
                reason: format!("the variable {:?} does not have this state", variable.name),
            };
            for (key, tensor) in &given {
                let own = core.lion.state_mut(variable.id).and_then(|state| match key.as_str() {
                    "momentum" => state.momentum,
                    "ema" => state.ema.map(Into::into),
                    "accumulator" => state.accumulator.map(Into::into),
                    _ => None,
                });
                let own = own.ok_or_else(|| unknown(key))?;
                Task::convert(tensor.to_ref(), own)?.run(Backend::best())?;
            }
            Ok(())
        })
    }

    /// The share of a parameter's elements that the next step cannot move.
    pub(super) fn stalled_share(&self, py: Python<'_>, name: &str) -> PyResult<f64> {
        let variable = self.find(py, name)?;
        let call = Call::read(py, Access::Read, [(&*variable, None)].into_iter())?;
        self.core.with(py, |core| {
            call.parameters()
                .next()
                .map_or(Ok(0.0), |parameter| core.lion.stalled_fraction(variable.id, parameter))
        })
    }

    /// The share of a gradient's elements that the next step follows.
    pub(super) fn agreement(&self, py: Python<'_>, name: &str, gradient: &Bound<'_, PyAny>) -> PyResult<f64> {
        let variable = self.find(py, name)?;
        let gradient = call::read("gradient", &variable, gradient)?;
        let gradient = gradient.to_dense().map_err(|error| error::kernels(py, error))?;
        self.core.with(py, |core| core.lion.sign_agreement_fraction(variable.id, gradient.to_ref()))
    }

    /// Writes a checkpoint.
    pub(super) fn write_checkpoint(&self, py: Python<'_>, path: PathBuf, parameters: bool) -> PyResult<()> {
        let (variables, call) = if parameters { self.arrays(py, Access::Read)? } else { Default::default() };
        self.core.with(py, |core| {
            let mut checkpoint = core.lion.checkpoint()?;
            for (variable, parameter) in variables.iter().zip(call.parameters()) {
                if let Some(saved) = checkpoint.variables.iter_mut().find(|saved| saved.name == variable.name)
                {
                    saved.parameter = Some(parameter.into());
                }
            }
            checkpoint.write(path)
        })
    }

    /// Goes on from a checkpoint.
    pub(super) fn read_checkpoint(&self, py: Python<'_>, path: PathBuf, parameters: bool) -> PyResult<()> {
        let (variables, mut call) =
            if parameters { self.arrays(py, Access::Write)? } else { Default::default() };
        self.core.with(py, |core| {
            let checkpoint = Checkpoint::read(path)?;
            let found = variables.iter().map(|variable| {
                let saved = checkpoint.variables.iter().find(|saved| saved.name == variable.name);
                match saved.and_then(|saved| saved.parameter.as_ref()) {
                    Some(Saved::Owned(values)) => Ok(values),
                    _ => Err(lion::Error::State {
                        tensor: format!("param/{}", variable.name),
                        reason: "is missing".into(),
                    }),
                }
            });
            let found = found.collect::<Result<Vec<_>, _>>()?;
            core.lion.restore(&checkpoint)?;
            for (place, values) in found.into_iter().enumerate() {
                call.write(place, values);
            }
            Ok(())
        })
    }

    /// Takes the momentum of another program's file.
    pub(super) fn import(
        &self,
        py: Python<'_>,
        path: PathBuf,
        names: &Bound<'_, PyAny>,
        rename: Option<Vec<(String, String)>>,
    ) -> PyResult<()> {
        let mut names = match names.extract::<&str>() {
            Ok("torch") => MomentumMapping::torch(),
            Ok("keras") => MomentumMapping::keras(),
            Ok("optax") => MomentumMapping::optax(),
            Ok(other) => {
                return Err(error::name(
                    py,
                    &format!("names is {other:?}; expected torch, keras, optax or a list"),
                ));
            }
            Err(_) => MomentumMapping::patterns(names.extract::<Vec<String>>()?),
        };
        for (here, there) in rename.into_iter().flatten() {
            names = names.rename(here, there);
        }
        let variables = self.variables();
        self.core.with(py, |core| {
            let wanted = variables.iter().filter(|it| core.lion.momentum(it.id).is_some());
            let wanted: Vec<_> = wanted.collect();
            let named = wanted.iter().map(|it| (it.name.as_str(), it.shape.as_slice()));
            let found = import_momentum(path, &names, named)?;
            for (variable, values) in wanted.iter().zip(&found) {
                let own = core.lion.state_mut(variable.id).and_then(|state| state.momentum);
                if let Some(own) = own {
                    Task::convert(values.to_ref(), own)?.run(Backend::best())?;
                }
            }
            Ok(())
        })
    }
}

/// The elements as an array of numpy can hold them: those of a format that numpy lacks as f32.
fn bytes(tensor: TensorRef<'_>) -> (&'static str, Vec<u8>) {
    match (tensor.dtype(), tensor.as_bytes(0)) {
        (Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::I16, Some(bytes)) => {
            (tensor.dtype().name(), bytes.to_vec())
        }
        _ => (Dtype::F32.name(), tensor.to_f32().into_iter().flat_map(f32::to_ne_bytes).collect()),
    }
}
