//! [`DecayScale`]: the factor of weight decay.

use std::fmt;
use std::str::FromStr;

/// The factor of weight decay in a step: `p = p - (p * weight_decay) * scale`.
///
/// Keras uses the learning rate. `Relative` divides it by the largest learning rate: the decay follows the schedule, but
/// not the size of the rate. `Corrected` uses `learning_rate^2 / to`, so that the decay falls faster than the rate
/// (Defazio, "Why Gradients Rapidly Increase Near the End of Training", 2025). Both are computed in f64 from the f32
/// numbers and rounded once.
///
/// ```
/// use lion::DecayScale;
///
/// assert_eq!("relative:0.001".parse(), Ok(DecayScale::Relative(0.001)));
/// assert_eq!(DecayScale::LearningRate.to_string(), "lr");
/// assert_eq!(DecayScale::Corrected(0.5).at(0.25), 0.125);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum DecayScale {
    /// The learning rate: `lr`.
    #[default]
    LearningRate,
    /// The learning rate divided by this number, in (0, inf), usually the largest learning rate: `relative:TO`.
    Relative(f64),
    /// The square of the learning rate divided by this number, in (0, inf): `corrected:TO`.
    Corrected(f64),
}

impl DecayScale {
    /// The allowed names, for errors.
    pub(crate) const ALLOWED: &str = "lr, relative:TO or corrected:TO, with TO in (0, inf)";

    /// Returns the scale at a learning rate.
    pub fn at(self, learning_rate: f32) -> f32 {
        lion_kernels::with_ieee_state(|| self.evaluate(learning_rate))
    }

    /// [`at`](Self::at) under the IEEE default floating-point state.
    pub(crate) fn evaluate(self, learning_rate: f32) -> f32 {
        let (rate, single) = (f64::from(learning_rate), |to: f64| f64::from(to as f32));
        match self {
            DecayScale::LearningRate => learning_rate,
            DecayScale::Relative(to) => (rate / single(to)) as f32,
            DecayScale::Corrected(to) => (rate * rate / single(to)) as f32,
        }
    }
}

impl fmt::Display for DecayScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecayScale::LearningRate => f.write_str("lr"),
            DecayScale::Relative(to) => write!(f, "relative:{to:?}"),
            DecayScale::Corrected(to) => write!(f, "corrected:{to:?}"),
        }
    }
}

impl FromStr for DecayScale {
    type Err = String;

    /// # Errors
    /// Returns the text and the allowed values.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("decay_scale is {text:?}, and must be {}", Self::ALLOWED);
        let number = |text: &str| {
            let to = text.parse::<f64>().ok()?;
            // It must also be in range as an f32, in which it is used.
            let single = f64::from(crate::check::single(to));
            [to, single].iter().all(|to| *to > 0.0 && to.is_finite()).then_some(to)
        };
        match text.split_once(':') {
            None if text == "lr" => Ok(DecayScale::LearningRate),
            Some(("relative", to)) => number(to).map(DecayScale::Relative).ok_or_else(wrong),
            Some(("corrected", to)) => number(to).map(DecayScale::Corrected).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}
