//! The common part of the schedules that decay by a rate per period of steps.

use serde_json::{Map, Value};

use super::{count, quotient, single};
use crate::json::{self, ObjectReader};
use crate::{Error, check};

/// The initial learning rate, the steps of a period, the rate of decay, and whether it applies at the end of a period only.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PeriodicDecay {
    initial_learning_rate: f64,
    decay_steps: f64,
    decay_rate: f64,
    staircase: bool,
}

impl PeriodicDecay {
    pub(super) fn new(initial_learning_rate: f64, decay_steps: f64, decay_rate: f64) -> Result<Self, Error> {
        Ok(PeriodicDecay {
            initial_learning_rate: check::not_negative("initial_learning_rate", initial_learning_rate)?,
            decay_steps: check::positive("decay_steps", decay_steps)?,
            decay_rate: check::not_negative("decay_rate", decay_rate)?,
            staircase: false,
        })
    }

    pub(super) fn staircase(self, staircase: bool) -> Self {
        PeriodicDecay { staircase, ..self }
    }

    pub(super) fn initial_learning_rate(&self) -> f64 {
        single(self.initial_learning_rate)
    }

    pub(super) fn decay_rate(&self) -> f64 {
        single(self.decay_rate)
    }

    /// Returns the number of periods until a step, rounded down with a staircase.
    pub(super) fn until(&self, step: u64) -> f64 {
        let periods = quotient(count(step), self.decay_steps);
        if self.staircase { periods.floor() } else { periods }
    }

    pub(super) fn write(&self, config: &mut Map<String, Value>) {
        config.insert("initial_learning_rate".into(), json::float(self.initial_learning_rate));
        config.insert("decay_steps".into(), json::steps(self.decay_steps));
        config.insert("decay_rate".into(), json::float(self.decay_rate));
        config.insert("staircase".into(), self.staircase.into());
    }

    pub(super) fn read(config: &mut ObjectReader) -> Result<Self, Error> {
        let (initial, steps) = (config.required("initial_learning_rate")?, config.required("decay_steps")?);
        let rate = config.required("decay_rate")?;
        Ok(Self::new(initial, steps, rate)?.staircase(config.or("staircase", false)?))
    }
}
