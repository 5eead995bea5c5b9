//! An option's value, from Python and back.

use lion::options::Value;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::error;
use crate::schedule::{self, Schedule};

/// The value that an object stands for. `name` is the option, for the error.
pub(crate) fn from_python(name: &str, object: &Bound<'_, PyAny>) -> PyResult<Value> {
    let number = || object.extract::<f64>().map(Value::Float);
    if object.is_none() {
        Ok(Value::None)
    } else if let Ok(on) = object.cast::<PyBool>() {
        Ok(on.is_true().into())
    } else if let Ok(text) = object.cast::<PyString>() {
        Ok(text.to_str()?.into())
    } else if object.is_instance_of::<PyFloat>() {
        number()
    } else if object.is_instance_of::<PyInt>() {
        object.extract::<i64>().map(Value::from).or_else(|_| number())
    } else if let Ok(schedule) = object.cast::<Schedule>() {
        Ok(schedule.get().0.clone().into())
    } else if object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
        Ok(object.extract::<Vec<String>>()?.into())
    } else if object.is_instance_of::<PyDict>() {
        serialized(object)
    } else if let Some(of_keras) = of_keras(object)? {
        serialized(&of_keras)
    } else if object.is_callable() {
        Ok(schedule::of_callable(object).into())
    } else if let Ok(number) = object.extract::<i64>() {
        Ok(number.into())
    } else {
        number().map_err(|_| {
            let what = object.get_type().name().map_or("unknown".into(), |name| name.to_string());
            PyTypeError::new_err(format!(
                "{name} is of the type {what}; expected None, a bool, a number, a str, a list of str, a schedule or a \
                 function of the step"
            ))
        })
    }
}

fn serialized(object: &Bound<'_, PyAny>) -> PyResult<Value> {
    Value::from_json(&schedule::to_json(object)?).map_err(|error| error::core(object.py(), &error))
}

/// A schedule of Keras, as Keras serializes it. A class that somebody derived from one stays a callable.
fn of_keras<'py>(object: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let class = object.get_type();
    let module = class.getattr("__module__")?;
    if !module.extract::<String>().is_ok_and(|module| module.starts_with("keras.")) {
        return Ok(None);
    }
    let Ok(get_config) = object.getattr("get_config") else { return Ok(None) };
    let wrapped = PyDict::new(object.py());
    wrapped.set_item("class_name", class.name()?)?;
    wrapped.set_item("config", get_config.call0()?)?;
    Ok(Some(wrapped.into_any()))
}

/// The value as Python's object.
pub(crate) fn to_python<'py>(py: Python<'py>, value: Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::Bool(on) => on.into_bound_py_any(py),
        Value::Integer(number) => number.into_bound_py_any(py),
        Value::Float(number) => number.into_bound_py_any(py),
        Value::Text(text) => text.into_bound_py_any(py),
        Value::List(texts) => texts.into_bound_py_any(py),
        Value::Schedule(schedule) => Schedule(schedule).into_bound_py_any(py),
        _ => Ok(py.None().into_bound(py)),
    }
}
