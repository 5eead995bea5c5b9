//! What Keras's constructor takes, checked as a whole; and Keras's files.

mod file;
mod find;
mod keras;

use crate::{Error, Hyperparameter, check};

/// The arguments of `keras.optimizers.Lion`, with its names and defaults. Numbers are f64, as in Keras's files, and
/// become f32 where they are used.
///
/// ```
/// use lion::{Config, schedule::CosineDecay};
///
/// let mut config = Config::default();
/// config.learning_rate = CosineDecay::new(1e-3, 10_000.0)?.into();
/// config.weight_decay = Some(0.1.into());
/// config.global_clipnorm = Some(1.0);
/// config.validate()?;
/// assert_eq!(Config::from_json(&config.to_json()?)?, config);
///
/// config.clipvalue = Some(1.0);
/// assert_eq!(
///     config.validate().unwrap_err().to_string(),
///     "global_clipnorm is 1 and clipvalue is 1, and at most one of clipnorm, global_clipnorm and clipvalue may be set",
/// );
/// # Ok::<(), lion::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// The size of a step, in [0, inf); 0.001 by default.
    pub learning_rate: Hyperparameter,
    /// How much of the old momentum is in the direction of a step, in (0, 1]; 0.9 by default.
    pub beta_1: Hyperparameter,
    /// How much of the old momentum is kept, in [0, 1]; 0.99 by default.
    pub beta_2: Hyperparameter,
    /// The share of a parameter that is taken off per step and unit of learning rate, in [0, inf). Zero is not off:
    /// it rewrites a parameter of -0 as +0, as Keras does.
    pub weight_decay: Option<Hyperparameter>,
    /// The largest norm of each gradient, in (0, inf).
    pub clipnorm: Option<f64>,
    /// The largest norm of all gradients together, in (0, inf).
    pub global_clipnorm: Option<f64>,
    /// The largest magnitude of an element of a gradient, in (0, inf).
    pub clipvalue: Option<f64>,
    /// Whether an average of each parameter is kept.
    pub use_ema: bool,
    /// How much of itself the average keeps in a call, in [0, 1]; 0.99 by default.
    pub ema_momentum: f64,
    /// After how many updates the parameter becomes its average; 1 or more.
    pub ema_overwrite_frequency: Option<u64>,
    /// What gradients are divided by, in (0, inf). Not used with a dynamic loss scale.
    pub loss_scale_factor: Option<f64>,
    /// Over how many calls gradients are averaged for one update, in [2, 2^24].
    pub gradient_accumulation_steps: Option<u32>,
    /// Keras's name of the instance.
    pub name: String,
    /// Keras's `LossScaleOptimizer` around the optimizer.
    pub dynamic_loss_scale: Option<DynamicLossScale>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            learning_rate: 1e-3.into(),
            beta_1: 0.9.into(),
            beta_2: 0.99.into(),
            weight_decay: None,
            clipnorm: None,
            global_clipnorm: None,
            clipvalue: None,
            use_ema: false,
            ema_momentum: 0.99,
            ema_overwrite_frequency: None,
            loss_scale_factor: None,
            gradient_accumulation_steps: None,
            name: "lion".into(),
            dynamic_loss_scale: None,
        }
    }
}

/// A loss scale that halves where a gradient is not finite, and doubles where none has been for long: the arguments of
/// `keras.optimizers.LossScaleOptimizer`, with its names and defaults.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DynamicLossScale {
    /// The scale of the first call, in (0, inf); 2^15 by default.
    pub initial_scale: f64,
    /// After how many finite calls the scale doubles; 2000 by default. With 0 it never does, as in Keras.
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

impl Config {
    /// Checks every argument against its range.
    ///
    /// # Errors
    /// [`Error::Argument`] with the name, the value and the range of the first argument that is outside its range,
    /// [`Error::SeveralClips`]. What a schedule gives is known only when its step comes, and checked then.
    pub fn validate(&self) -> Result<(), Error> {
        self.learning_rate.check("learning_rate", check::not_negative)?;
        self.beta_1.check("beta_1", check::positive_fraction)?;
        self.beta_2.check("beta_2", check::fraction)?;
        if let Some(weight_decay) = &self.weight_decay {
            weight_decay.check("weight_decay", check::not_negative)?;
        }
        self.check_clips()?;
        check::fraction("ema_momentum", self.ema_momentum)?;
        if self.ema_overwrite_frequency == Some(0) {
            return Err(Error::argument("ema_overwrite_frequency", 0, EMA_OVERWRITE_FREQUENCY));
        }
        if let Some(factor) = self.loss_scale_factor {
            check::positive("loss_scale_factor", factor)?;
        }
        if let Some(steps) = self.gradient_accumulation_steps
            && !(2..=MOST_ACCUMULATED).contains(&steps)
        {
            return Err(Error::argument("gradient_accumulation_steps", steps, GRADIENT_ACCUMULATION_STEPS));
        }
        if let Some(scale) = &self.dynamic_loss_scale {
            check::positive("initial_scale", scale.initial_scale)?;
        }
        Ok(())
    }

    fn check_clips(&self) -> Result<(), Error> {
        let clips = [
            ("clipnorm", self.clipnorm),
            ("global_clipnorm", self.global_clipnorm),
            ("clipvalue", self.clipvalue),
        ];
        one_clip(clips)?;
        for (name, value) in clips {
            if let Some(value) = value {
                check::positive(name, value)?;
            }
        }
        Ok(())
    }
}

/// The integers that f32 tells apart, in which the mean is taken.
const MOST_ACCUMULATED: u32 = 1 << 24;
const GRADIENT_ACCUMULATION_STEPS: &str = "a whole number in [2, 16777216]";
const EMA_OVERWRITE_FREQUENCY: &str = "a whole number in [1, 18446744073709551615]";

fn one_clip(clips: [(&str, Option<f64>); 3]) -> Result<(), Error> {
    let set = clips.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let found: Vec<_> = set.map(|(name, value)| format!("{name} is {value}")).collect();
    if found.len() > 1 { Err(Error::SeveralClips { found: found.join(" and ") }) } else { Ok(()) }
}
