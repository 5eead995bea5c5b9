use serde_json::{Map, Value};

use super::ScheduleImpl;
use super::periodic_decay::PeriodicDecay;
use crate::Error;
use crate::json::ObjectReader;

/// Keras's `ExponentialDecay`: the learning rate is multiplied by `decay_rate` in every `decay_steps` steps.
///
/// `initial_learning_rate * decay_rate^(step / decay_steps)`, the exponent rounded down with
/// [`staircase`](Self::staircase).
///
#[doc = include_str!("../../docs/schedules/exponential_decay.svg")]
#[derive(Clone, Debug, PartialEq)]
pub struct ExponentialDecay(PeriodicDecay);

impl ExponentialDecay {
    /// Creates a decay by `decay_rate` in every `decay_steps` steps.
    ///
    /// # Errors
    /// [`Error::Argument`] if `initial_learning_rate` or `decay_rate` is outside [0, inf), or `decay_steps` outside
    /// (0, inf).
    pub fn new(initial_learning_rate: f64, decay_steps: f64, decay_rate: f64) -> Result<Self, Error> {
        PeriodicDecay::new(initial_learning_rate, decay_steps, decay_rate).map(ExponentialDecay)
    }

    /// Sets whether the learning rate changes only at multiples of `decay_steps`.
    #[must_use]
    pub fn staircase(self, staircase: bool) -> Self {
        ExponentialDecay(self.0.staircase(staircase))
    }
}

impl ScheduleImpl for ExponentialDecay {
    fn at(&self, step: u64) -> f64 {
        // The limit prevents 0 times infinity, which is NaN.
        self.0.initial_learning_rate() * libm::pow(self.0.decay_rate(), self.0.until(step)).min(f64::MAX)
    }

    fn write(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        self.0.write(config);
        Ok(())
    }

    fn read(config: &mut ObjectReader) -> Result<Self, Error> {
        PeriodicDecay::read(config).map(ExponentialDecay)
    }
}
