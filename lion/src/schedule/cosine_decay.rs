use serde_json::{Map, Value};

use super::{ScheduleImpl, count, half_cosine, line, quotient, single};
use crate::json::{self, ObjectReader};
use crate::{Error, check};

/// Keras's `CosineDecay`: half a period of a cosine, after a linear warmup if one is set.
///
/// `from * ((1 - alpha) * (1 + cos(pi * p)) / 2 + alpha)` with `p = min(step, decay_steps) / decay_steps` and the
/// initial learning rate as `from`. With a [`warmup`](Self::warmup), `initial + (target - initial) * step / W` while
/// `step < W`, and from then on the cosine over `step - W` from the target. (Loshchilov and Hutter, 2016.)
///
#[doc = include_str!("../../docs/schedules/cosine_decay.svg")]
#[derive(Clone, Debug, PartialEq)]
pub struct CosineDecay {
    initial_learning_rate: f64,
    decay_steps: f64,
    alpha: f64,
    warmup_target: Option<f64>,
    warmup_steps: f64,
}

impl CosineDecay {
    /// Creates half a cosine over `decay_steps` steps.
    ///
    /// # Errors
    /// [`Error::Argument`] if `initial_learning_rate` is outside [0, inf) or `decay_steps` outside (0, inf).
    pub fn new(initial_learning_rate: f64, decay_steps: f64) -> Result<Self, Error> {
        Ok(CosineDecay {
            initial_learning_rate: check::not_negative("initial_learning_rate", initial_learning_rate)?,
            decay_steps: check::positive("decay_steps", decay_steps)?,
            alpha: 0.0,
            warmup_target: None,
            warmup_steps: 0.0,
        })
    }

    /// Sets the final value, as a fraction of the learning rate at the start of the cosine. Default: 0.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is outside [0, 1].
    pub fn alpha(self, alpha: f64) -> Result<Self, Error> {
        check::fraction("alpha", alpha)?;
        Ok(CosineDecay { alpha, ..self })
    }

    /// Adds a linear warmup from the initial learning rate to `target` in `steps` steps before the cosine.
    ///
    /// # Errors
    /// [`Error::Argument`] if the target (`warmup_target`) or the steps (`warmup_steps`) are outside [0, inf).
    pub fn warmup(self, target: f64, steps: f64) -> Result<Self, Error> {
        check::not_negative("warmup_target", target)?;
        check::not_negative("warmup_steps", steps)?;
        Ok(CosineDecay { warmup_target: Some(target), warmup_steps: steps, ..self })
    }
}

impl ScheduleImpl for CosineDecay {
    fn at(&self, step: u64) -> f64 {
        let (step, length) = (count(step), single(self.decay_steps));
        let initial = single(self.initial_learning_rate);
        let (from, step) = match self.warmup_target.map(single) {
            None => (initial, step),
            Some(target) => {
                let warmup = single(self.warmup_steps);
                if step < warmup {
                    return line(initial, target, quotient(step, warmup));
                }
                (target, step - warmup)
            }
        };
        let alpha = single(self.alpha);
        from * ((1.0 - alpha) * half_cosine(quotient(step.min(length), length)) + alpha)
    }

    fn write(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        config.insert("initial_learning_rate".into(), json::float(self.initial_learning_rate));
        config.insert("decay_steps".into(), json::steps(self.decay_steps));
        config.insert("alpha".into(), json::float(self.alpha));
        config.insert("warmup_target".into(), self.warmup_target.map_or(Value::Null, json::float));
        config.insert("warmup_steps".into(), json::steps(self.warmup_steps));
        Ok(())
    }

    fn read(config: &mut ObjectReader) -> Result<Self, Error> {
        let (initial, steps) = (config.required("initial_learning_rate")?, config.required("decay_steps")?);
        let curve = Self::new(initial, steps)?.alpha(config.or("alpha", 0.0)?)?;
        let target = config.option("warmup_target")?;
        let warmup = config.or("warmup_steps", 0.0)?;
        match target {
            Some(target) => curve.warmup(target, warmup),
            // Without a target Keras ignores the steps, but keeps them in the file.
            None => {
                let warmup_steps = check::not_negative("warmup_steps", warmup)?;
                Ok(CosineDecay { warmup_steps, ..curve })
            }
        }
    }
}
