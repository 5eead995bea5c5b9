use serde_json::{Map, Value};

use super::{ScheduleImpl, quotient, single};
use crate::json::{self, ObjectReader};
use crate::{Error, check};

/// A linear warmup to the peak, and from there a decay with the inverse square root of the step. (Vaswani et al.,
/// 2017, section 5.3; the first author of the code gave it the name Noam.)
///
/// `peak * min(n / warmup_steps, sqrt(warmup_steps / n))`, where `n = step + 1` counts from 1 as the paper does.
///
#[doc = include_str!("../../docs/schedules/inverse_square_root.svg")]
#[derive(Clone, Debug, PartialEq)]
pub struct InverseSquareRoot {
    peak_learning_rate: f64,
    warmup_steps: f64,
}

impl InverseSquareRoot {
    /// Creates a warmup over `warmup_steps` steps, and the decay after it.
    ///
    /// # Errors
    /// [`Error::Argument`] if `peak_learning_rate` is outside [0, inf) or `warmup_steps` outside [1, inf).
    pub fn new(peak_learning_rate: f64, warmup_steps: f64) -> Result<Self, Error> {
        Ok(InverseSquareRoot {
            peak_learning_rate: check::not_negative("peak_learning_rate", peak_learning_rate)?,
            warmup_steps: check::at_least_one("warmup_steps", warmup_steps)?,
        })
    }

    /// Creates the paper's form: `model_width^-0.5 * min(n^-0.5, n * warmup_steps^-1.5)`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `model_width` or `warmup_steps` is outside [1, inf).
    pub fn noam(model_width: f64, warmup_steps: f64) -> Result<Self, Error> {
        check::at_least_one("model_width", model_width)?;
        check::at_least_one("warmup_steps", warmup_steps)?;
        Self::new(1.0 / (model_width.sqrt() * warmup_steps.sqrt()), warmup_steps)
    }
}

impl ScheduleImpl for InverseSquareRoot {
    fn at(&self, step: u64) -> f64 {
        let number = step.saturating_add(1) as f64;
        let done = quotient(number, self.warmup_steps);
        single(self.peak_learning_rate) * done.min(1.0 / done.sqrt())
    }

    fn write(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        config.insert("peak_learning_rate".into(), json::float(self.peak_learning_rate));
        config.insert("warmup_steps".into(), json::steps(self.warmup_steps));
        Ok(())
    }

    fn read(config: &mut ObjectReader) -> Result<Self, Error> {
        Self::new(config.required("peak_learning_rate")?, config.required("warmup_steps")?)
    }
}
