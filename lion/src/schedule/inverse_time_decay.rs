use serde_json::{Map, Value};

use super::{Curve, count, quotient, single};
use crate::json::{self, Fields};
use crate::{Error, check};

/// Keras's `InverseTimeDecay`: the learning rate falls as the inverse of time.
///
/// `initial_learning_rate / (1 + decay_rate * step / decay_steps)`, the quotient `step / decay_steps` rounded down
/// with [`staircase`](Self::staircase).
///
#[doc = include_str!("../../docs/schedules/inverse_time_decay.svg")]
#[derive(Clone, Debug, PartialEq)]
pub struct InverseTimeDecay {
    initial_learning_rate: f64,
    decay_steps: f64,
    decay_rate: f64,
    staircase: bool,
}

impl InverseTimeDecay {
    /// A decay over `decay_steps` calls of the optimizer at a time, the first of which is step 0.
    ///
    /// # Errors
    /// [`Error::Argument`] where `initial_learning_rate` or `decay_rate` is outside [0, inf), or `decay_steps` outside
    /// (0, inf).
    pub fn new(initial_learning_rate: f64, decay_steps: f64, decay_rate: f64) -> Result<Self, Error> {
        Ok(InverseTimeDecay {
            initial_learning_rate: check::not_negative("initial_learning_rate", initial_learning_rate)?,
            decay_steps: check::positive("decay_steps", decay_steps)?,
            decay_rate: check::not_negative("decay_rate", decay_rate)?,
            staircase: false,
        })
    }

    /// Whether the learning rate falls at once at every multiple of `decay_steps`, and stays in between.
    #[must_use]
    pub fn staircase(self, staircase: bool) -> Self {
        InverseTimeDecay { staircase, ..self }
    }
}

impl Curve for InverseTimeDecay {
    fn at(&self, step: u64) -> f64 {
        let periods = quotient(count(step), self.decay_steps);
        let periods = if self.staircase { periods.floor() } else { periods };
        single(self.initial_learning_rate) / (1.0 + single(self.decay_rate) * periods)
    }

    fn write(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        config.insert("initial_learning_rate".into(), json::float(self.initial_learning_rate));
        config.insert("decay_steps".into(), json::steps(self.decay_steps));
        config.insert("decay_rate".into(), json::float(self.decay_rate));
        config.insert("staircase".into(), self.staircase.into());
        Ok(())
    }

    fn read(config: &mut Fields) -> Result<Self, Error> {
        let (initial, steps) = (config.required("initial_learning_rate")?, config.required("decay_steps")?);
        let rate = config.required("decay_rate")?;
        Ok(Self::new(initial, steps, rate)?.staircase(config.or("staircase", false)?))
    }
}
