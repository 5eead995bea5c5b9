//! What the command `lion` does, as functions: replay, tune, doctor, and the table of options.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use lion::checkpoint::{Checkpoint, Tensor};
use lion::options::TABLE;
use lion::replay::{self as recorded, Recording};
use lion_autotune::profile::{can_write, user_path, write};
use lion_autotune::{Dtypes, Level, Machine, Operation, Tuner, report};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::build::{Speed, builder};
use crate::{error, pool, value};

/// Applies the optimizer to a recorded run, as `lion replay` does.
#[pyfunction]
#[pyo3(signature = (input, output, *, config=None, state=None, finalize=false, isa=None, threads=None, chunk=None,
    profile=None, **options))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn replay(
    py: Python<'_>,
    input: PathBuf,
    output: PathBuf,
    config: Option<&Bound<'_, PyAny>>,
    state: Option<PathBuf>,
    finalize: bool,
    isa: Option<String>,
    threads: Option<usize>,
    chunk: Option<usize>,
    profile: Option<PathBuf>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    error::guarded(|| {
        let mut builder = builder(config, options)?;
        if let Some(profile) = (Speed { isa, threads, chunk, profile }).profile(py)? {
            builder = builder.profile(profile);
        }
        let run = || {
            let recording = Recording::open(&input)?;
            let mut optimizer = builder.build()?;
            let ids = recorded::register(&recording, &mut optimizer)?;
            let mut parameters = recording.parameters()?;
            if let Some(path) = state {
                let checkpoint = Checkpoint::read(path)?;
                optimizer.restore(&checkpoint)?;
                // Both are sorted by name, and restoring has found that the names are the same.
                for (saved, own) in checkpoint.variables.into_iter().zip(&mut parameters) {
                    match saved.parameter {
                        Some(Tensor::Owned(values)) => *own = values,
                        _ => {
                            let (tensor, reason) = (format!("param/{}", saved.name), "is missing".into());
                            return Err(lion::Error::State { tensor, reason });
                        }
                    }
                }
            }
            recorded::run(&recording, &mut optimizer, &ids, &mut parameters, |_| ())?;
            if finalize {
                recorded::finalize(&mut optimizer, &ids, &mut parameters)?;
            }
            let mut checkpoint = optimizer.checkpoint()?;
            for (variable, parameter) in checkpoint.variables.iter_mut().zip(&parameters) {
                variable.parameter = Some(Tensor::from(parameter.to_ref()));
            }
            checkpoint.write(&output)
        };
        let done = py.detach(|| pool::enter(|| Ok(run())))?;
        match crate::schedule::raised() {
            Some(error) => Err(error),
            None => done.map_err(|error| error::core(py, &error)),
        }
    })
}

/// Measures which plans are fastest on this machine, and writes them as its profile. Returns the profile as TOML.
#[pyfunction]
#[pyo3(signature = (*, level="quick", time_limit=None, operations=None, dtypes=None, threads=None, output=None,
    dry_run=false))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn tune(
    py: Python<'_>,
    level: &str,
    time_limit: Option<f64>,
    operations: Option<Vec<String>>,
    dtypes: Option<Vec<String>>,
    threads: Option<usize>,
    output: Option<PathBuf>,
    dry_run: bool,
) -> PyResult<String> {
    error::guarded(|| {
        let raise = |error: lion_autotune::Error| error::autotune(py, &error);
        let mut tuner = Tuner::new(Machine::detect()).level(level.parse::<Level>().map_err(raise)?);
        if let Some(seconds) = time_limit {
            let limit = Duration::try_from_secs_f64(seconds);
            let message = format!("time_limit is {seconds}; expected seconds, at least 0");
            tuner = tuner.time_limit(limit.map_err(|_| PyValueError::new_err(message))?);
        }
        if let Some(threads) = threads {
            tuner = tuner.threads(threads);
        }
        if let Some(operations) = operations {
            let parsed = operations.iter().map(|it| it.parse::<Operation>()).collect::<Result<Vec<_>, _>>();
            tuner = tuner.operations(parsed.map_err(raise)?);
        }
        if let Some(dtypes) = dtypes {
            let parsed = dtypes.iter().map(|it| it.parse::<Dtypes>()).collect::<Result<Vec<_>, _>>();
            tuner = tuner.dtypes(parsed.map_err(raise)?);
        }
        let path = match (output, dry_run) {
            (_, true) => None,
            (Some(path), _) => Some(path),
            (None, _) => Some(user_path().ok_or(lion_autotune::Error::NoHome).map_err(raise)?),
        };
        if let Some(path) = &path {
            can_write(path).map_err(raise)?;
        }
        let mut interrupted = None;
        let tuned = py.detach(|| {
            pool::enter(|| {
                Ok(tuner.run(|_| match Python::attach(|py| py.check_signals()) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => {
                        interrupted = Some(error);
                        ControlFlow::Break(())
                    }
                }))
            })
        })?;
        if let Some(error) = interrupted {
            return Err(error);
        }
        let document = tuned.map_err(raise)?.document;
        if let Some(path) = &path {
            write(&document, path).map_err(raise)?;
        }
        document.to_toml().map_err(raise)
    })
}

/// What the optimizer finds on this machine, as `lion doctor` prints it.
#[pyfunction]
pub(crate) fn doctor(py: Python<'_>) -> PyResult<String> {
    error::guarded(|| Ok(py.detach(report::doctor)))
}

/// The options by name, each as a dict of its type, range, default and whether it may change later.
#[pyfunction]
pub(crate) fn options(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let options = PyDict::new(py);
    for row in TABLE {
        let option = PyDict::new(py);
        option.set_item("type", row.what())?;
        option.set_item("range", row.range())?;
        option.set_item("default", value::to_python(py, row.default())?)?;
        option.set_item("changes", row.changes)?;
        option.set_item("keras", row.is_known_to_keras())?;
        options.set_item(row.name, option)?;
    }
    Ok(options)
}
