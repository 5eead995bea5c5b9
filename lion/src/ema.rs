//! The parameters' EMA: its update schedule, and when it overwrites the parameters.

use std::fmt;

use lion_kernels::Ema;

use crate::{Config, Error};

/// The steps that update the parameters' average if gradients are accumulated. Without accumulation every step updates
/// the parameters, and both cadences are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EmaCadence {
    /// Every step, as in Keras, also those that only accumulate and change no parameter.
    #[default]
    EveryCall,
    /// Only the steps that update the parameters.
    EveryUpdate,
}

impl EmaCadence {
    /// Every cadence, in the order of this enum.
    pub const ALL: &'static [Self] = &[EmaCadence::EveryCall, EmaCadence::EveryUpdate];
}

/// Writes the name that options use.
impl fmt::Display for EmaCadence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EmaCadence::EveryCall => "every_call",
            EmaCadence::EveryUpdate => "every_update",
        })
    }
}

/// The settings of the parameters' average.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmaSettings {
    momentum: f32,
    frequency: Option<u64>,
    cadence: EmaCadence,
}

impl EmaSettings {
    pub(crate) fn new(config: &Config, cadence: EmaCadence) -> Option<Self> {
        let frequency = config.ema_overwrite_frequency;
        let settings = EmaSettings { momentum: config.ema_momentum as f32, frequency, cadence };
        config.use_ema.then_some(settings)
    }

    /// Returns how a step of this accumulation cycle updates the average; `last` says whether it ends the cycle.
    pub(crate) fn at(self, cycle: u64, last: bool) -> Result<Option<Ema>, Error> {
        if self.cadence == EmaCadence::EveryUpdate && !last {
            return Ok(None);
        }
        // The average starts at zero; the first cycle replaces it.
        let momentum = if cycle == 0 { 0.0 } else { self.momentum };
        let overwrite = self.frequency.is_some_and(|every| cycle % every == every - 1);
        Ok(Some(Ema::new(momentum)?.overwrite(overwrite)))
    }
}
