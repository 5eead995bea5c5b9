use serde_json::{Map, Value};

use super::{ScheduleImpl, count, half_cosine, quotient, single};
use crate::json::{self, ObjectReader};
use crate::{Error, check};

/// Keras's `CosineDecayRestarts`: a cosine over `first_decay_steps` steps, then again from the top, each cycle
/// `t_mul` times as long as the one before and `m_mul` times as high.
///
/// `initial_learning_rate * ((1 - alpha) * m_mul^i * (1 + cos(pi * p)) / 2 + alpha)` in the cycle `i`, of which the
/// fraction `p` is over. (Loshchilov and Hutter, 2016.) Keras finds `i` by a logarithm in f32, which at some restarts
/// gives the cycle before: here a restart is where it should be. Where cycles that become shorter come to an end, the
/// learning rate stays at `alpha`'s.
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
    /// Each cycle twice as long as the one before and as high, Keras's defaults.
    ///
    /// # Errors
    /// [`Error::Argument`] where `initial_learning_rate` is outside [0, inf) or `first_decay_steps` outside (0, inf).
    pub fn new(initial_learning_rate: f64, first_decay_steps: f64) -> Result<Self, Error> {
        Ok(CosineDecayRestarts {
            initial_learning_rate: check::not_negative("initial_learning_rate", initial_learning_rate)?,
            first_decay_steps: check::positive("first_decay_steps", first_decay_steps)?,
            t_mul: 2.0,
            m_mul: 1.0,
            alpha: 0.0,
        })
    }

    /// How many times as long each cycle is as the one before; 2 unless set.
    ///
    /// # Errors
    /// [`Error::Argument`] where it is outside (0, inf).
    pub fn t_mul(self, t_mul: f64) -> Result<Self, Error> {
        check::positive("t_mul", t_mul)?;
        Ok(CosineDecayRestarts { t_mul, ..self })
    }

    /// How many times as high each cycle is as the one before; 1 unless set.
    ///
    /// # Errors
    /// [`Error::Argument`] where it is outside [0, inf).
    pub fn m_mul(self, m_mul: f64) -> Result<Self, Error> {
        check::not_negative("m_mul", m_mul)?;
        Ok(CosineDecayRestarts { m_mul, ..self })
    }

    /// What is left at the end of a cycle, as a fraction of the initial learning rate; 0 unless set.
    ///
    /// # Errors
    /// [`Error::Argument`] where it is outside [0, 1].
    pub fn alpha(self, alpha: f64) -> Result<Self, Error> {
        check::fraction("alpha", alpha)?;
        Ok(CosineDecayRestarts { alpha, ..self })
    }

    /// The cycle's number, and how much of it is over.
    fn cycle(&self, step: u64) -> Option<(f64, f64)> {
        let (step, first) = (count(step), single(self.first_decay_steps));
        let periods = quotient(step, first);
        let growth = single(self.t_mul);
        if growth == 1.0 {
            return Some((periods.floor(), periods.fract()));
        }
        let cycle = self.geometric_cycle(step / first)?;
        let fraction = (periods - start_of(cycle, growth)) / libm::pow(growth, cycle);
        // The start of the rounded growth may be past the step.
        Some((cycle, if fraction > 0.0 { fraction.min(1.0) } else { 0.0 }))
    }

    /// Here a rounding error would be a whole cycle. So nothing is f32, and the cycle that the logarithm says gives way
    /// to the next where that has started.
    fn geometric_cycle(&self, periods: f64) -> Option<f64> {
        // A restart within this of a step is at the step: 1.1 is not exact in f64 either.
        const SAME: f64 = 1.0 + 1e-9;
        let more = self.t_mul - 1.0;
        let guess = (libm::log1p(periods * more) / libm::log1p(more)).floor();
        // Where cycles become shorter, all of them together have an end.
        if !guess.is_finite() {
            return None;
        }
        let next = guess + 1.0;
        Some(if start_of(next, self.t_mul) <= periods * SAME { next } else { guess })
    }
}

/// Where a cycle starts, in lengths of the first: `(growth^cycle - 1) / (growth - 1)`, without its cancellation.
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
