use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Schedule, ScheduleImpl, count, line, quotient, single};
use crate::json::{self, ObjectReader};
use crate::{Error, check};

/// A linear warmup to any other schedule, which starts when the warmup ends.
///
/// `initial + (after(0) - initial) * step / warmup_steps` while `step < warmup_steps`, then
/// `after(step - warmup_steps)`. (Goyal et al., 2017.)
///
#[doc = include_str!("../../docs/schedules/linear_warmup.svg")]
#[derive(Clone, Debug, PartialEq)]
pub struct LinearWarmup {
    initial_learning_rate: f64,
    warmup_steps: u64,
    after: Arc<Schedule>,
}

/// The limit of nested schedules, which bounds the recursion of evaluation and drop.
const DEEPEST: u32 = 16;

impl LinearWarmup {
    /// Creates a warmup from 0 to the first value of `after`.
    ///
    /// # Errors
    /// [`Error::Argument`] if more than 16 schedules are nested.
    pub fn new(warmup_steps: u64, after: impl Into<Schedule>) -> Result<Self, Error> {
        let after = Arc::new(after.into());
        let warmup = LinearWarmup { initial_learning_rate: 0.0, warmup_steps, after };
        let depth = warmup.depth();
        if depth > DEEPEST {
            return Err(Error::argument("after", format!("{depth} schedules deep"), "at most 16 deep"));
        }
        Ok(warmup)
    }

    /// Sets the value at step 0. Default: 0.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is outside [0, inf).
    pub fn initial_learning_rate(self, initial_learning_rate: f64) -> Result<Self, Error> {
        check::not_negative("initial_learning_rate", initial_learning_rate)?;
        Ok(LinearWarmup { initial_learning_rate, ..self })
    }

    pub(super) fn depth(&self) -> u32 {
        self.after.depth() + 1
    }
}

impl ScheduleImpl for LinearWarmup {
    fn at(&self, step: u64) -> f64 {
        match step.checked_sub(self.warmup_steps) {
            Some(step) => self.after.value(step),
            None => {
                let fraction = quotient(count(step), count(self.warmup_steps));
                line(single(self.initial_learning_rate), self.after.value(0), fraction)
            }
        }
    }

    fn write(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        config.insert("initial_learning_rate".into(), json::float(self.initial_learning_rate));
        config.insert("warmup_steps".into(), self.warmup_steps.into());
        config.insert("after".into(), self.after.write().map_err(|error| error.under("after"))?);
        Ok(())
    }

    fn read(config: &mut ObjectReader) -> Result<Self, Error> {
        let initial = config.or("initial_learning_rate", 0.0)?;
        let steps = config.required("warmup_steps")?;
        let after = config.required_value("after", "an object")?;
        let after = Schedule::read(after).map_err(|error| error.under("after"))?;
        Self::new(steps, after)?.initial_learning_rate(initial)
    }
}
