//! Keras's constraints, for a variable.

use lion::Axes;
use pyo3::prelude::*;

use crate::error;

/// What a parameter is made to fulfil after each step.
#[pyclass(frozen, module = "lion_cpu")]
#[derive(Debug)]
pub(crate) struct Constraint(pub(crate) lion::Constraint);

/// One axis, several, or all.
fn axes(axis: Option<&Bound<'_, PyAny>>) -> PyResult<Axes> {
    match axis {
        None => Ok(Axes::All),
        Some(axis) => {
            Ok(axis.extract::<isize>().map_or_else(|_| axis.extract().map(Axes::Of), |it| Ok(it.into()))?)
        }
    }
}

#[pymethods]
impl Constraint {
    /// Keras's `NonNeg`.
    #[staticmethod]
    fn non_negative() -> Self {
        Constraint(lion::Constraint::non_negative())
    }

    /// Keras's `MaxNorm`.
    #[staticmethod]
    #[pyo3(signature = (max_value=2.0, axis=None))]
    fn max_norm(py: Python<'_>, max_value: f64, axis: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let made = lion::Constraint::max_norm(max_value, axes(axis)?);
        made.map(Constraint).map_err(|error| error::core(py, &error))
    }

    /// Keras's `UnitNorm`.
    #[staticmethod]
    #[pyo3(signature = (axis=None))]
    fn unit_norm(axis: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        Ok(Constraint(lion::Constraint::unit_norm(axes(axis)?)))
    }

    /// Keras's `MinMaxNorm`.
    #[staticmethod]
    #[pyo3(signature = (min_value=0.0, max_value=1.0, rate=1.0, axis=None))]
    fn min_max_norm(
        py: Python<'_>,
        min_value: f64,
        max_value: f64,
        rate: f64,
        axis: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let made = lion::Constraint::min_max_norm(min_value, max_value, rate, axes(axis)?);
        made.map(Constraint).map_err(|error| error::core(py, &error))
    }
}
