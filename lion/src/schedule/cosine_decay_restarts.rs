use serde_json::{Map, Value};

use super::{ScheduleImpl, count, half_cosine, quotient, single};
use crate::json::{self, ObjectReader};
use crate::{Error, check};

/// Keras's `CosineDecayRestarts`: a cosine over `first_decay_steps` steps, then again from the top, each cycle
/// `t_mul` times as long as the one before and `m_mul` times as high.
///
/// `initial_learning_rate * ((1 - alpha) * m_mul^i * (1 + cos(pi * p)) / 2 + alpha)` at the fraction `p` of cycle `i`.
/// (Loshchilov and Hutter, 2016.) Keras finds `i` by a logarithm in f32, which at some restarts gives the previous cycle;
/// here the cycle is exact. If the cycles become shorter, they end at a finite step; after it the learning rate stays at
/// `initial_learning_rate * alpha`.
///
#[doc = include_str!("../../docs/schedules/cosine_decay_restarts.svg")]
#[derive(Clone, Debug, PartialEq)]
pub struct CosineDecayRestarts {
    initial_learning_rate: f64,
    first_decay_steps: f64,
    t_mul: f64,
    m_mul: f64,
    alpha: f64,
}

impl CosineDecayRestarts {
    /// Creates cycles that double in length and keep their height, Keras's defaults.
    ///
    /// # Errors
    /// [`Error::Argument`] if `initial_learning_rate` is outside [0, inf) or `first_decay_steps` outside (0, inf).
    pub fn new(initial_learning_rate: f64, first_decay_steps: f64) -> Result<Self, Error> {
        Ok(CosineDecayRestarts {
            initial_learning_rate: check::not_negative("initial_learning_rate", initial_learning_rate)?,
            first_decay_steps: check::positive("first_decay_steps", first_decay_steps)?,
            t_mul: 2.0,
            m_mul: 1.0,
            alpha: 0.0,
        })
    }

    /// Sets the factor of each cycle's length over the one before. Default: 2.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is outside (0, inf).
    pub fn t_mul(self, t_mul: f64) -> Result<Self, Error> {
        check::positive("t_mul", t_mul)?;
        Ok(CosineDecayRestarts { t_mul, ..self })
    }

    /// Sets the factor of each cycle's height over the one before. Default: 1.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is outside [0, inf).
    pub fn m_mul(self, m_mul: f64) -> Result<Self, Error> {
        check::not_negative("m_mul", m_mul)?;
        Ok(CosineDecayRestarts { m_mul, ..self })
    }

    /// Sets the value at the end of a cycle, as a fraction of the initial learning rate. Default: 0.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is outside [0, 1].
    pub fn alpha(self, alpha: f64) -> Result<Self, Error> {
        check::fraction("alpha", alpha)?;
        Ok(CosineDecayRestarts { alpha, ..self })
    }

    /// Returns the cycle's number, and the fraction of it that is over.
    fn cycle(&self, step: u64) -> Option<(f64, f64)> {
        let (step, first) = (count(step), single(self.first_decay_steps));
        let periods = quotient(step, first);
        let growth = single(self.t_mul);
        if growth == 1.0 {
            return Some((periods.floor(), periods.fract()));
        }
        let cycle = self.geometric_cycle(step / first)?;
        let fraction = (periods - start_of(cycle, growth)) / libm::pow(growth, cycle);
        // `growth` is rounded to f32, so the cycle's start may be past the step.
        Some((cycle, if fraction > 0.0 { fraction.min(1.0) } else { 0.0 }))
    }

    /// Returns the cycle for a step, given in lengths of the first cycle. A rounding error could give the wrong cycle, so
    /// everything is f64, and the result of the logarithm is corrected if the next cycle has started.
    fn geometric_cycle(&self, periods: f64) -> Option<f64> {
        // The tolerance for a restart at a step, as a `t_mul` such as 1.1 is not exact in f64.
        const SAME: f64 = 1.0 + 1e-9;
        let more = self.t_mul - 1.0;
        let guess = (libm::log1p(periods * more) / libm::log1p(more)).floor();
        // If cycles become shorter, their total length is finite, and this step is after it.
        if !guess.is_finite() {
            return None;
        }
        let next = guess + 1.0;
        Some(if start_of(next, self.t_mul) <= periods * SAME { next } else { guess })
    }
}

/// Returns the start of a cycle in lengths of the first: `(growth^cycle - 1) / (growth - 1)`, without cancellation.
fn start_of(cycle: f64, growth: f64) -> f64 {
    libm::expm1(cycle * libm::log1p(growth - 1.0)) / (growth - 1.0)
}

impl ScheduleImpl for CosineDecayRestarts {
    fn at(&self, step: u64) -> f64 {
        let (initial, alpha) = (single(self.initial_learning_rate), single(self.alpha));
        let height = match self.cycle(step) {
            // The limit keeps the end of an infinitely high cycle from becoming NaN.
            Some((cycle, fraction)) => {
                libm::pow(single(self.m_mul), cycle).min(f64::MAX) * half_cosine(fraction)
            }
            None => 0.0,
        };
        initial * ((1.0 - alpha) * height + alpha)
    }

    fn write(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        config.insert("initial_learning_rate".into(), json::float(self.initial_learning_rate));
        config.insert("first_decay_steps".into(), json::steps(self.first_decay_steps));
        config.insert("t_mul".into(), json::float(self.t_mul));
        config.insert("m_mul".into(), json::float(self.m_mul));
        config.insert("alpha".into(), json::float(self.alpha));
        Ok(())
    }

    fn read(config: &mut ObjectReader) -> Result<Self, Error> {
        let initial = config.required("initial_learning_rate")?;
        Self::new(initial, config.required("first_decay_steps")?)?
            .t_mul(config.or("t_mul", 2.0)?)?
            .m_mul(config.or("m_mul", 1.0)?)?
            .alpha(config.or("alpha", 0.0)?)
    }
}
