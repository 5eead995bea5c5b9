//! [`Config`]: all options together, and the files that hold them.

mod file;
mod find;
mod keras;

use crate::Error;

pub use crate::options::Config;

/// Dynamic loss scaling: the scale halves if a gradient is not finite, and doubles after a number of finite steps. The
/// fields are the arguments of `keras.optimizers.LossScaleOptimizer`, with its names and defaults.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DynamicLossScale {
    /// The scale of the first step, in (0, inf). Default: 2^15.
    pub initial_scale: f64,
    /// The number of finite steps after which the scale doubles. Default: 2000. With 0 it never doubles, as in Keras.
    pub dynamic_growth_steps: u64,
    /// Keras's name of the instance.
    pub name: String,
}

impl Default for DynamicLossScale {
    fn default() -> Self {
        DynamicLossScale {
            initial_scale: 32_768.0,
            dynamic_growth_steps: 2000,
            name: "loss_scale_optimizer".into(),
        }
    }
}

pub(crate) fn one_clip(clips: &[(&str, Option<f64>)]) -> Result<(), Error> {
    let set = clips.iter().filter_map(|&(name, value)| Some((name, value?)));
    let found: Vec<_> = set.map(|(name, value)| format!("{name} is {value}")).collect();
    if found.len() > 1 { Err(Error::SeveralClips { found: found.join(" and ") }) } else { Ok(()) }
}
