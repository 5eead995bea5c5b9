use serde_json::{Map, Value};

use super::{ScheduleImpl, count, quotient, single};
use crate::json::{self, ObjectReader};
use crate::{Error, check};

/// Keras's `PolynomialDecay`: from the initial to the final learning rate in `decay_steps` steps, along a power function.
///
/// `(initial_learning_rate - end_learning_rate) * (1 - p)^power + end_learning_rate`, where `p` is
/// `min(step, decay_steps) / decay_steps`, or with [`cycle`](Self::cycle) `step` by the first multiple of
/// `decay_steps` that is not below it.
///
#[doc = include_str!("../../docs/schedules/polynomial_decay.svg")]
#[derive(Clone, Debug, PartialEq)]
pub struct PolynomialDecay {
    initial_learning_rate: f64,
    decay_steps: f64,
    end_learning_rate: f64,
    power: f64,
    cycle: bool,
}

impl PolynomialDecay {
    /// Creates a straight line to 1e-4, Keras's default.
    ///
    /// # Errors
    /// [`Error::Argument`] if `initial_learning_rate` is outside [0, inf) or `decay_steps` outside (0, inf).
    pub fn new(initial_learning_rate: f64, decay_steps: f64) -> Result<Self, Error> {
        Ok(PolynomialDecay {
            initial_learning_rate: check::not_negative("initial_learning_rate", initial_learning_rate)?,
            decay_steps: check::positive("decay_steps", decay_steps)?,
            end_learning_rate: 1e-4,
            power: 1.0,
            cycle: false,
        })
    }

    /// Sets the final learning rate. Default: 1e-4.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is outside [0, inf).
    pub fn end_learning_rate(self, end_learning_rate: f64) -> Result<Self, Error> {
        check::not_negative("end_learning_rate", end_learning_rate)?;
        Ok(PolynomialDecay { end_learning_rate, ..self })
    }

    /// Sets the exponent. Default: 1.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is outside [0, inf).
    pub fn power(self, power: f64) -> Result<Self, Error> {
        check::not_negative("power", power)?;
        Ok(PolynomialDecay { power, ..self })
    }

    /// Sets whether the length becomes the next multiple of `decay_steps` when it is passed, which raises the learning rate
    /// again.
    #[must_use]
    pub fn cycle(self, cycle: bool) -> Self {
        PolynomialDecay { cycle, ..self }
    }
}

impl ScheduleImpl for PolynomialDecay {
    fn at(&self, step: u64) -> f64 {
        let (step, steps) = (count(step), single(self.decay_steps));
        let length = if self.cycle { steps * quotient(step, steps).ceil().max(1.0) } else { steps };
        // A length that has been rounded to f32 may be below the step.
        let fraction = quotient(step, length).min(1.0);
        let (from, to) = (single(self.initial_learning_rate), single(self.end_learning_rate));
        (from - to) * libm::pow(1.0 - fraction, single(self.power)) + to
    }

    fn write(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        config.insert("initial_learning_rate".into(), json::float(self.initial_learning_rate));
        config.insert("decay_steps".into(), json::steps(self.decay_steps));
        config.insert("end_learning_rate".into(), json::float(self.end_learning_rate));
        config.insert("power".into(), json::float(self.power));
        config.insert("cycle".into(), self.cycle.into());
        Ok(())
    }

    fn read(config: &mut ObjectReader) -> Result<Self, Error> {
        let (initial, steps) = (config.required("initial_learning_rate")?, config.required("decay_steps")?);
        Ok(Self::new(initial, steps)?
            .end_learning_rate(config.or("end_learning_rate", 1e-4)?)?
            .power(config.or("power", 1.0)?)?
            .cycle(config.or("cycle", false)?))
    }
}
