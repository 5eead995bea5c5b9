//! When the moving average of the parameters moves, by how much, and when it is written back.

use std::fmt;

use lion_kernels::Ema;

use crate::{Config, Error};

/// Which calls move the average of the parameters where gradients are accumulated. Without accumulation every call
/// updates, and the two are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EmaCadence {
    /// Every call, as in Keras, those too that only accumulate and so change no parameter.
    #[default]
    EveryCall,
    /// Only calls that update.
    EveryUpdate,
}

impl EmaCadence {
    /// Every cadence, in the order of this enum.
    pub const ALL: &'static [Self] = &[EmaCadence::EveryCall, EmaCadence::EveryUpdate];
}

/// The name by which options have it.
impl fmt::Display for EmaCadence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EmaCadence::EveryCall => "every_call",
            EmaCadence::EveryUpdate => "every_update",
        })
    }
}

/// The settings of the average.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmaSettings {
    momentum: f32,
    frequency: Option<u64>,
    cadence: EmaCadence,
}

impl EmaSettings {
    pub(crate) fn new(config: &Config, cadence: EmaCadence) -> Option<Self> {
        let frequency = config.ema_overwrite_frequency;
        let averaging = EmaSettings { momentum: config.ema_momentum as f32, frequency, cadence };
        config.use_ema.then_some(averaging)
    }

    /// What a call in window number `window` does, which is the window's last or not.
    pub(crate) fn at(self, window: u64, last: bool) -> Result<Option<Ema>, Error> {
        if self.cadence == EmaCadence::EveryUpdate && !last {
            return Ok(None);
        }
        // The average starts at zero: the first window replaces it.
        let momentum = if window == 0 { 0.0 } else { self.momentum };
        let overwrite = self.frequency.is_some_and(|every| window % every == every - 1);
        Ok(Some(Ema::new(momentum)?.overwrite(overwrite)))
    }
}
