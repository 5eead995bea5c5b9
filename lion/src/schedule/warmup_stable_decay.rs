use serde_json::{Map, Value};

use super::{ScheduleImpl, count, half_cosine, line, quotient, single};
use crate::json::{self, ObjectReader};
use crate::{Error, check};

/// A linear warmup from 0, a plateau, and a decay to a final learning rate. (Hu et al., 2024, MiniCPM; the shapes of the
/// decay from Hägele et al., 2024.)
///
/// `peak * step / W` while `step < W`, `peak` for `S` steps, and then `end + (peak - end) * shape(p)` at the fraction `p`
/// of the decay.
///
#[doc = include_str!("../../docs/schedules/warmup_stable_decay.svg")]
#[derive(Clone, Debug, PartialEq)]
pub struct WarmupStableDecay {
    peak_learning_rate: f64,
    warmup_steps: f64,
    stable_steps: f64,
    decay_steps: f64,
    end_learning_rate: f64,
    shape: DecayShape,
}

/// The shape of a decay: the fraction of the learning rate that is left at the fraction `p` of the decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecayShape {
    /// `1 - p`
    #[default]
    Linear,
    /// `(1 + cos(pi * p)) / 2`
    Cosine,
    /// `1 - sqrt(p)`
    OneMinusSqrt,
}

impl DecayShape {
    const ALL: [DecayShape; 3] = [DecayShape::Linear, DecayShape::Cosine, DecayShape::OneMinusSqrt];

    fn name(self) -> &'static str {
        match self {
            DecayShape::Linear => "linear",
            DecayShape::Cosine => "cosine",
            DecayShape::OneMinusSqrt => "one_minus_sqrt",
        }
    }

    fn left(self, fraction: f64) -> f64 {
        match self {
            DecayShape::Linear => 1.0 - fraction,
            DecayShape::Cosine => half_cosine(fraction),
            DecayShape::OneMinusSqrt => 1.0 - fraction.sqrt(),
        }
    }
}

impl WarmupStableDecay {
    /// Creates a schedule with a linear decay to 0.
    ///
    /// # Errors
    /// [`Error::Argument`] if `peak_learning_rate`, `warmup_steps` or `stable_steps` is outside [0, inf), or
    /// `decay_steps` outside (0, inf).
    pub fn new(
        peak_learning_rate: f64,
        warmup_steps: f64,
        stable_steps: f64,
        decay_steps: f64,
    ) -> Result<Self, Error> {
        Ok(WarmupStableDecay {
            peak_learning_rate: check::not_negative("peak_learning_rate", peak_learning_rate)?,
            warmup_steps: check::not_negative("warmup_steps", warmup_steps)?,
            stable_steps: check::not_negative("stable_steps", stable_steps)?,
            decay_steps: check::positive("decay_steps", decay_steps)?,
            end_learning_rate: 0.0,
            shape: DecayShape::Linear,
        })
    }

    /// Sets the final learning rate. Default: 0.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is outside [0, inf).
    pub fn end_learning_rate(self, end_learning_rate: f64) -> Result<Self, Error> {
        check::not_negative("end_learning_rate", end_learning_rate)?;
        Ok(WarmupStableDecay { end_learning_rate, ..self })
    }

    /// Sets the shape of the decay.
    #[must_use]
    pub fn shape(self, shape: DecayShape) -> Self {
        WarmupStableDecay { shape, ..self }
    }
}

impl ScheduleImpl for WarmupStableDecay {
    fn at(&self, step: u64) -> f64 {
        let (step, warmup) = (count(step), single(self.warmup_steps));
        let (peak, end) = (single(self.peak_learning_rate), single(self.end_learning_rate));
        if step < warmup {
            return line(0.0, peak, quotient(step, warmup));
        }
        let decaying = (step - warmup - single(self.stable_steps)).max(0.0);
        let fraction = quotient(decaying, self.decay_steps).min(1.0);
        line(end, peak, self.shape.left(fraction))
    }

    fn write(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        config.insert("peak_learning_rate".into(), json::float(self.peak_learning_rate));
        config.insert("warmup_steps".into(), json::steps(self.warmup_steps));
        config.insert("stable_steps".into(), json::steps(self.stable_steps));
        config.insert("decay_steps".into(), json::steps(self.decay_steps));
        config.insert("end_learning_rate".into(), json::float(self.end_learning_rate));
        config.insert("shape".into(), self.shape.name().into());
        Ok(())
    }

    fn read(config: &mut ObjectReader) -> Result<Self, Error> {
        let (peak, warmup) = (config.required("peak_learning_rate")?, config.required("warmup_steps")?);
        let (stable, decay) = (config.required("stable_steps")?, config.required("decay_steps")?);
        let name = config.or("shape", DecayShape::default().name().to_owned())?;
        let Some(shape) = DecayShape::ALL.into_iter().find(|shape| shape.name() == name) else {
            let names = DecayShape::ALL.map(DecayShape::name).join(", ");
            return Err(Error::argument("shape", format_args!("{name:?}"), format!("one of {names}")));
        };
        let curve = Self::new(peak, warmup, stable, decay)?.shape(shape);
        curve.end_learning_rate(config.or("end_learning_rate", 0.0)?)
    }
}
