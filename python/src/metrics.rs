//! What a step did.

use lion::Outcome;
use pyo3::prelude::*;

/// What a step did and found. A number that the step did not need is None.
#[pyclass(frozen, module = "lion_cpu")]
#[derive(Debug)]
pub(crate) struct Metrics(pub(crate) lion::Metrics);

#[pymethods]
impl Metrics {
    /// "nothing", "updated", "accumulated", "overwritten" or "skipped".
    #[getter]
    fn outcome(&self) -> &'static str {
        match self.0.outcome {
            Outcome::Updated => "updated",
            Outcome::Accumulated => "accumulated",
            Outcome::Overwritten => "overwritten",
            Outcome::Skipped => "skipped",
            _ => "nothing",
        }
    }

    #[getter]
    fn learning_rate(&self) -> f32 {
        self.0.learning_rate
    }

    #[getter]
    fn loss_scale(&self) -> Option<f32> {
        self.0.loss_scale
    }

    #[getter]
    fn gradient_norm(&self) -> Option<f32> {
        self.0.gradient_norm
    }

    #[getter]
    fn clipped_norm(&self) -> Option<f32> {
        self.0.clipped_norm
    }

    #[getter]
    fn clipped(&self) -> Option<bool> {
        self.0.clipped
    }

    #[getter]
    fn non_finite(&self) -> Option<u64> {
        self.0.non_finite
    }

    fn __repr__(&self) -> String {
        format!("<lion_cpu.Metrics {}, learning rate {}>", self.outcome(), self.0.learning_rate)
    }
}
