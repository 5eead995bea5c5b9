//! Schedules: the core's, by name, and Python's callables.

use std::cell::RefCell;

use lion::options::Value;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::{error, fork};

/// A number that follows the steps: one of the core's schedules.
#[pyclass(frozen, module = "lion_cpu")]
#[derive(Debug)]
pub(crate) struct Schedule(pub(crate) lion::Schedule);

#[pymethods]
impl Schedule {
    /// The schedule of a class, such as "CosineDecay", with Keras's arguments by name.
    #[new]
    #[pyo3(signature = (class_name, /, **config))]
    fn new(class_name: &Bound<'_, PyAny>, config: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let wrapped = PyDict::new(class_name.py());
        wrapped.set_item("class_name", class_name)?;
        wrapped.set_item("config", config)?;
        error::guarded(|| Self::read(&wrapped))
    }

    /// The schedule that Keras's `keras.optimizers.schedules.serialize` has made a dict of.
    #[staticmethod]
    fn from_dict(serialized: &Bound<'_, PyDict>) -> PyResult<Self> {
        error::guarded(|| Self::read(serialized))
    }

    /// The class.
    #[getter]
    fn class_name(&self) -> &'static str {
        self.0.class_name()
    }

    /// The value in step number `step`, from 0.
    fn __call__(&self, step: u64) -> PyResult<f32> {
        error::guarded(|| {
            let value = self.0.at(step);
            raised().map_or(Ok(value), Err)
        })
    }

    fn __repr__(&self) -> String {
        format!("<lion_cpu.Schedule {}>", self.0.class_name())
    }
}

impl Schedule {
    fn read(serialized: &Bound<'_, PyDict>) -> PyResult<Self> {
        let py = serialized.py();
        match Value::from_json(&to_json(serialized.as_any())?).map_err(|error| error::core(py, &error))? {
            Value::Schedule(schedule) => Ok(Schedule(schedule)),
            _ => Err(PyTypeError::new_err("the schedule is not an object that Keras serializes")),
        }
    }
}

/// JSON of Python's objects, which may be numpy's numbers.
pub(crate) fn to_json(object: &Bound<'_, PyAny>) -> PyResult<String> {
    object.py().import("lion_cpu._json")?.getattr("dumps")?.call1((object,))?.extract()
}

thread_local! {
    /// What a callable raised on this thread since somebody last asked.
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// Takes the exception that a callable raised on this thread in the call that just ended.
pub(crate) fn raised() -> Option<PyErr> {
    RAISED.with(RefCell::take)
}

/// A callable as a schedule. It cannot hand an exception through the core: it keeps it for [`raised`] and gives a NaN, with
/// which no step begins.
pub(crate) fn of_callable(callable: &Bound<'_, PyAny>) -> lion::Schedule {
    let callable = callable.clone().unbind();
    lion::Schedule::from_fn(move |step| {
        let forks = fork::count();
        let called = Python::attach(|py| {
            let value = callable.call1(py, (step,))?.extract::<f64>(py)?;
            // The step that asks has its threads in the parent.
            let message =
                "a schedule forked the process and returned in the child; expected the child to end in it";
            if fork::count() == forks { Ok(value) } else { Err(PyRuntimeError::new_err(message)) }
        });
        called.map_or_else(
            |error| {
                RAISED.with(|raised| raised.replace(Some(error)));
                f32::NAN
            },
            |value| value as f32,
        )
    })
}
