use serde_json::{Map, Value};

use super::{ScheduleImpl, single};
use crate::json::{self, ObjectReader};
use crate::{Error, check};

/// The same value in every step, for use after a [`LinearWarmup`](super::LinearWarmup).
///
/// `learning_rate`
///
#[doc = include_str!("../../docs/schedules/constant.svg")]
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    learning_rate: f64,
}

impl Constant {
    /// Creates the schedule.
    ///
    /// # Errors
    /// [`Error::Argument`] if `learning_rate` is outside [0, inf).
    pub fn new(learning_rate: f64) -> Result<Self, Error> {
        Ok(Constant { learning_rate: check::not_negative("learning_rate", learning_rate)? })
    }
}

impl ScheduleImpl for Constant {
    fn at(&self, _: u64) -> f64 {
        single(self.learning_rate)
    }

    fn write(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        config.insert("learning_rate".into(), json::float(self.learning_rate));
        Ok(())
    }

    fn read(config: &mut ObjectReader) -> Result<Self, Error> {
        Self::new(config.required("learning_rate")?)
    }
}
