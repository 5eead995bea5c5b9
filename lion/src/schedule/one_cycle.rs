use serde_json::{Map, Value};

use super::{ScheduleImpl, count, half_cosine, line, quotient, single};
use crate::json::{self, ObjectReader};
use crate::{Error, check};

/// A rise to a maximum and a fall to nearly 0, on two cosines. (Smith and Topin, 2017, in the form of PyTorch's
/// `OneCycleLR`.)
///
/// From `max / div_factor` at step 0 to `max` at step `pct_start * total_steps - 1`, and on to
/// `max / div_factor / final_div_factor` at step `total_steps - 1`, where it stays.
///
#[doc = include_str!("../../docs/schedules/one_cycle.svg")]
#[derive(Clone, Debug, PartialEq)]
pub struct OneCycle {
    max_learning_rate: f64,
    total_steps: f64,
    pct_start: f64,
    div_factor: f64,
    final_div_factor: f64,
}

impl OneCycle {
    /// Creates a schedule with PyTorch's defaults: 30 % of the steps rise, from 1/25 of the maximum; the end is 1e4 times
    /// lower than the start.
    ///
    /// # Errors
    /// [`Error::Argument`] if `max_learning_rate` is outside [0, inf) or `total_steps` outside [1, inf).
    pub fn new(max_learning_rate: f64, total_steps: f64) -> Result<Self, Error> {
        Ok(OneCycle {
            max_learning_rate: check::not_negative("max_learning_rate", max_learning_rate)?,
            total_steps: check::at_least_one("total_steps", total_steps)?,
            pct_start: 0.3,
            div_factor: 25.0,
            final_div_factor: 1e4,
        })
    }

    /// Sets the fraction of the steps in which the learning rate rises.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is outside [0, 1].
    pub fn pct_start(self, pct_start: f64) -> Result<Self, Error> {
        check::fraction("pct_start", pct_start)?;
        Ok(OneCycle { pct_start, ..self })
    }

    /// Sets the ratio of the maximum to the start.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is outside (0, inf).
    pub fn div_factor(self, div_factor: f64) -> Result<Self, Error> {
        check::positive("div_factor", div_factor)?;
        Ok(OneCycle { div_factor, ..self })
    }

    /// Sets the ratio of the start to the end.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is outside (0, inf).
    pub fn final_div_factor(self, final_div_factor: f64) -> Result<Self, Error> {
        check::positive("final_div_factor", final_div_factor)?;
        Ok(OneCycle { final_div_factor, ..self })
    }
}

impl ScheduleImpl for OneCycle {
    fn at(&self, step: u64) -> f64 {
        let (step, total) = (count(step), single(self.total_steps));
        let top = self.pct_start * total - 1.0;
        let max = single(self.max_learning_rate);
        let initial = max / self.div_factor;
        if step < top {
            return line(max, initial, half_cosine(quotient(step, top)));
        }
        let (since, length) = (step - top.max(0.0), total - 1.0 - top.max(0.0));
        // A decay without steps is complete.
        let fraction = if since < length { quotient(since, length) } else { 1.0 };
        line(initial / self.final_div_factor, max, half_cosine(fraction))
    }

    fn write(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        config.insert("max_learning_rate".into(), json::float(self.max_learning_rate));
        config.insert("total_steps".into(), json::steps(self.total_steps));
        config.insert("pct_start".into(), json::float(self.pct_start));
        config.insert("div_factor".into(), json::float(self.div_factor));
        config.insert("final_div_factor".into(), json::float(self.final_div_factor));
        Ok(())
    }

    fn read(config: &mut ObjectReader) -> Result<Self, Error> {
        Self::new(config.required("max_learning_rate")?, config.required("total_steps")?)?
            .pct_start(config.or("pct_start", 0.3)?)?
            .div_factor(config.or("div_factor", 25.0)?)?
            .final_div_factor(config.or("final_div_factor", 1e4)?)
    }
}
