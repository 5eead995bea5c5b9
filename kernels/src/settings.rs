//! The constants of a pass, checked when they are set and never again.

use alloc::string::ToString;
use core::fmt::Display;

use crate::Error;

/// The hyperparameters of one Lion step, and what the same pass does besides.
///
/// Everything but learning rate and betas is off unless asked for, and then costs nothing.
///
/// ```
/// use lion_kernels::{Clip, Step};
///
/// let step = Step::new(1e-4, 0.9, 0.99)?.weight_decay(0.1)?.clip(Clip::Value(1.0))?;
/// assert!(Step::new(f32::NAN, 0.9, 0.99).is_err());
/// # Ok::<(), lion_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub(crate) learning_rate: f32,
    pub(crate) beta_1: f32,
    pub(crate) beta_2: f32,
    pub(crate) weight_decay: Option<f32>,
    pub(crate) gradient: Gradient,
    pub(crate) ema: Option<Ema>,
}

/// What becomes of the gradient before it is used, in this order: unscaling, averaging with an accumulator,
/// clipping.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gradient {
    pub(crate) unscale: Option<f32>,
    pub(crate) accumulation_steps: Option<u32>,
    pub(crate) clip: Option<Clip>,
}

/// How a gradient is clipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// `min(max(g, -v), v)` for each element; `v` is finite and positive.
    Value(f32),
    /// `(g * limit) / max(norm, limit)`: the tensor is scaled down to the L2 norm `limit`.
    Norm {
        /// The largest norm that passes unchanged, finite and positive.
        limit: f32,
        /// The tensor's own norm, as [`statistics`](crate::statistics()) gives it; NaN makes every element NaN.
        norm: f32,
    },
    /// `g * factor`, for a norm over many tensors; see [`Clip::global_norm`].
    Factor(f32),
}

impl Clip {
    /// Scales a set of tensors down to the joint L2 norm `limit`: `g * (limit * min(1 / norm, 1 / limit))`.
    ///
    /// A norm that is not finite makes every element NaN, as in Keras. The limit is a double because Keras divides
    /// before it rounds to f32.
    pub fn global_norm(limit: f64, norm: f32) -> Self {
        let (by_norm, by_limit) = (1.0 / norm, (1.0 / limit) as f32);
        let smaller = if by_limit < by_norm { by_limit } else { by_norm };
        Clip::Factor(if norm.is_finite() { limit as f32 * smaller } else { f32::NAN })
    }
}

/// An exponential moving average of the parameter: `average = momentum * average + (1 - momentum) * parameter`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ema {
    pub(crate) momentum: f32,
    pub(crate) overwrite: bool,
}

impl Ema {
    /// An average that keeps `momentum` of itself in each pass.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] where `momentum` is outside [0, 1].
    #[inline]
    pub fn new(momentum: f32) -> Result<Self, Error> {
        check("ema_momentum", momentum, (0.0..=1.0).contains(&momentum), "[0, 1]")?;
        Ok(Ema { momentum, overwrite: false })
    }

    /// Whether the parameter becomes its average in this pass.
    #[must_use]
    #[inline]
    pub fn overwrite(self, overwrite: bool) -> Self {
        Ema { overwrite, ..self }
    }
}

impl Step {
    /// A plain step. A learning rate of negative zero is zero.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] where `learning_rate` is negative or not finite, `beta_1` is outside (0, 1] or
    /// `beta_2` outside [0, 1].
    #[inline]
    pub fn new(learning_rate: f32, beta_1: f32, beta_2: f32) -> Result<Self, Error> {
        check("learning_rate", learning_rate, not_negative(learning_rate), "[0, inf)")?;
        check("beta_1", beta_1, beta_1 > 0.0 && beta_1 <= 1.0, "(0, 1]")?;
        check("beta_2", beta_2, (0.0..=1.0).contains(&beta_2), "[0, 1]")?;
        Ok(Step {
            // What a backend subtracts has the direction's sign, and no other.
            learning_rate: learning_rate + 0.0,
            beta_1,
            beta_2,
            weight_decay: None,
            gradient: Gradient::default(),
            ema: None,
        })
    }

    /// Decoupled weight decay: `p = p - (p * weight_decay) * learning_rate` before the step. Zero is a decay by
    /// nothing that still rewrites a parameter of -0 as +0, as Keras does.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] where it is negative or not finite.
    #[inline]
    pub fn weight_decay(self, weight_decay: f32) -> Result<Self, Error> {
        check("weight_decay", weight_decay, not_negative(weight_decay), "[0, inf)")?;
        Ok(Step { weight_decay: Some(weight_decay), ..self })
    }

    /// What becomes of the gradient first.
    #[must_use]
    #[inline]
    pub fn gradient(self, gradient: Gradient) -> Self {
        Step { gradient, ..self }
    }

    /// Short for setting [`Gradient::clip`].
    ///
    /// # Errors
    /// As [`Gradient::clip`].
    #[inline]
    pub fn clip(self, clip: Clip) -> Result<Self, Error> {
        Ok(Step { gradient: self.gradient.clip(clip)?, ..self })
    }

    /// Keeps an average of the parameter in the tensor given to [`Tensors::ema`](crate::Tensors::ema).
    #[must_use]
    #[inline]
    pub fn ema(self, ema: Ema) -> Self {
        Step { ema: Some(ema), ..self }
    }
}

impl Gradient {
    /// The gradient as it is.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }

    /// Divides by the factor that the loss was multiplied with. Zero and infinity are what a dynamic scale comes to
    /// when it halves or doubles for ever; division by them is IEEE's, as in Keras.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] where it is negative or NaN.
    #[inline]
    pub fn unscale(self, divisor: f32) -> Result<Self, Error> {
        check("loss_scale_factor", divisor, divisor >= 0.0, "[0, inf]")?;
        Ok(Gradient { unscale: Some(divisor), ..self })
    }

    /// Uses `(g + accumulator) / steps`; the step then clears the accumulator.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] where `steps` is below 2 or above 2^24, the integers that f32 tells apart.
    #[inline]
    pub fn accumulated(self, steps: u32) -> Result<Self, Error> {
        let allowed = (2..=1 << 24).contains(&steps);
        check("gradient_accumulation_steps", steps, allowed, "[2, 16777216]")?;
        Ok(Gradient { accumulation_steps: Some(steps), ..self })
    }

    /// Clips.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] where a limit is not finite and positive, or a norm is negative.
    #[inline]
    pub fn clip(self, clip: Clip) -> Result<Self, Error> {
        match clip {
            Clip::Value(limit) => check("clipvalue", limit, positive(limit), "(0, inf)")?,
            Clip::Norm { limit, norm } => {
                check("clipnorm", limit, positive(limit), "(0, inf)")?;
                check("norm", norm, norm >= 0.0 || norm.is_nan(), "[0, inf] or NaN")?;
            }
            // NaN is what a norm that is not finite asks for.
            Clip::Factor(_) => {}
        }
        Ok(Gradient { clip: Some(clip), ..self })
    }
}

fn not_negative(value: f32) -> bool {
    value >= 0.0 && value.is_finite()
}

fn positive(value: f32) -> bool {
    value > 0.0 && value.is_finite()
}

fn check(name: &'static str, value: impl Display, allowed: bool, range: &'static str) -> Result<(), Error> {
    if allowed { Ok(()) } else { Err(Error::Hyperparameter { name, value: value.to_string(), range }) }
}
