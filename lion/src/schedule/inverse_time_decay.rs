use serde_json::{Map, Value};

use super::ScheduleImpl;
use super::periodic_decay::PeriodicDecay;
use crate::Error;
use crate::json::ObjectReader;

/// Keras's `InverseTimeDecay`: the learning rate falls as the inverse of time.
///
/// `initial_learning_rate / (1 + decay_rate * step / decay_steps)`, the quotient `step / decay_steps` rounded down
/// with [`staircase`](Self::staircase).
///
#[doc = include_str!("../../docs/schedules/inverse_time_decay.svg")]
#[derive(Clone, Debug, PartialEq)]
pub struct InverseTimeDecay(PeriodicDecay);

impl InverseTimeDecay {
    /// Creates a decay in periods of `decay_steps` steps.
    ///
    /// # Errors
    /// [`Error::Argument`] if `initial_learning_rate` or `decay_rate` is outside [0, inf), or `decay_steps` outside
    /// (0, inf).
    pub fn new(initial_learning_rate: f64, decay_steps: f64, decay_rate: f64) -> Result<Self, Error> {
        PeriodicDecay::new(initial_learning_rate, decay_steps, decay_rate).map(InverseTimeDecay)
    }

    /// Sets whether the learning rate changes only at multiples of `decay_steps`.
    #[must_use]
    pub fn staircase(self, staircase: bool) -> Self {
        InverseTimeDecay(self.0.staircase(staircase))
    }
}

impl ScheduleImpl for InverseTimeDecay {
    fn at(&self, step: u64) -> f64 {
        self.0.initial_learning_rate() / (1.0 + self.0.decay_rate() * self.0.until(step))
    }

    fn write(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        self.0.write(config);
        Ok(())
    }

    fn read(config: &mut ObjectReader) -> Result<Self, Error> {
        PeriodicDecay::read(config).map(InverseTimeDecay)
    }
}
