//! The settings of each pass: hyperparameters that are checked when they are set, and never again.

use alloc::string::ToString;
use core::fmt::Display;
use core::num::NonZeroU32;

use crate::Error;
use crate::float_state::with_ieee_state;
use crate::rounding::StochasticRounding;

/// The settings of a Lion step: hyperparameters, and the optional parts of the same pass.
///
/// Everything but learning rate and betas is off by default, and then costs nothing.
///
/// ```
/// use lion_kernels::{Clip, LionStep};
///
/// let step = LionStep::new(1e-4, 0.9, 0.99)?.weight_decay(0.1)?.clip(Clip::Value(1.0))?;
/// assert!(LionStep::new(f32::NAN, 0.9, 0.99).is_err());
/// # Ok::<(), lion_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LionStep {
    pub(crate) learning_rate: f32,
    pub(crate) beta_1: f32,
    pub(crate) beta_2: f32,
    /// `1 - beta`, with a negative sign if the step goes up the gradient.
    pub(crate) rest_1: f32,
    pub(crate) rest_2: f32,
    pub(crate) weight_decay: Option<f32>,
    /// What the decay is multiplied by: the learning rate, unless another is set.
    pub(crate) decay_rate: f32,
    pub(crate) masked_decay: bool,
    pub(crate) stochastic_rounding: Option<StochasticRounding>,
    pub(crate) gradient: GradientTransform,
    pub(crate) ema: Option<Ema>,
    /// Whether it has the directions of another step for its gradient, and a momentum of zero.
    pub(crate) follows: bool,
}

/// Gradient transforms applied before the step, in this order: division by the loss scale, averaging with an
/// accumulator, clipping.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GradientTransform {
    pub(crate) loss_scale: Option<f32>,
    pub(crate) average_over: Option<NonZeroU32>,
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
        /// The tensor's own norm, from its [`GradientStatistics`](crate::GradientStatistics). NaN makes every element
        /// NaN.
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
        with_ieee_state(|| {
            let (by_norm, by_limit) = (1.0 / norm, (1.0 / limit) as f32);
            let smaller = if by_limit < by_norm { by_limit } else { by_norm };
            Clip::Factor(if norm.is_finite() { limit as f32 * smaller } else { f32::NAN })
        })
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
    /// [`Error::Hyperparameter`] if `momentum` is outside [0, 1].
    #[inline]
    pub fn new(momentum: f32) -> Result<Self, Error> {
        check("ema_momentum", momentum, is_fraction(momentum), "[0, 1]")?;
        Ok(Ema { momentum, overwrite: false })
    }

    /// Whether the parameter becomes its average in this pass.
    #[must_use]
    #[inline]
    pub fn overwrite(self, overwrite: bool) -> Self {
        Ema { overwrite, ..self }
    }
}

impl LionStep {
    /// A plain step. A learning rate of negative zero is zero.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] if `learning_rate` is negative or not finite, or a beta is outside [0, 1]. (Keras also
    /// refuses a `beta_1` of 0; the optimizer does so too.)
    #[inline]
    pub fn new(learning_rate: f32, beta_1: f32, beta_2: f32) -> Result<Self, Error> {
        check("learning_rate", learning_rate, not_negative(learning_rate), "[0, inf)")?;
        check("beta_1", beta_1, is_fraction(beta_1), "[0, 1]")?;
        check("beta_2", beta_2, is_fraction(beta_2), "[0, 1]")?;
        let [rest_1, rest_2] = with_ieee_state(|| [1.0 - beta_1, 1.0 - beta_2]);
        Ok(LionStep {
            // What a backend subtracts has the direction's sign, and no other.
            learning_rate: learning_rate.abs(),
            beta_1,
            beta_2,
            rest_1,
            rest_2,
            weight_decay: None,
            decay_rate: learning_rate.abs(),
            masked_decay: false,
            stochastic_rounding: None,
            gradient: GradientTransform::default(),
            ema: None,
            follows: false,
        })
    }

    /// Decoupled weight decay: `p = p - (p * weight_decay) * learning_rate` before the step. Zero is a decay by
    /// nothing that still rewrites a parameter of -0 as +0, as Keras does.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] if it is negative or not finite.
    #[inline]
    pub fn weight_decay(self, weight_decay: f32) -> Result<Self, Error> {
        check("weight_decay", weight_decay, not_negative(weight_decay), "[0, inf)")?;
        Ok(LionStep { weight_decay: Some(weight_decay), ..self })
    }

    /// What the decay is multiplied by, in place of the learning rate: `p = p - (p * weight_decay) * rate`. With the
    /// learning rate over its largest value the decay follows the schedule and not the learning rate's size. Has an effect
    /// only with [`weight_decay`](Self::weight_decay).
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] if it is negative or not finite.
    #[inline]
    pub fn decay_rate(self, rate: f32) -> Result<Self, Error> {
        check("decay_rate", rate, not_negative(rate), "[0, inf)")?;
        Ok(LionStep { decay_rate: rate.abs(), ..self })
    }

    /// Rounds the parameter up or down at random when it is stored, with the probabilities that make the mean right: a
    /// bf16 parameter then moves on average also where a step is less than half its last place. Everything else is
    /// rounded to nearest even. The parameter must be bf16, and the task must know its first element
    /// ([`Task::starting_at`](crate::Task::starting_at)).
    #[must_use]
    #[inline]
    pub fn stochastic_rounding(self, rounding: StochasticRounding) -> Self {
        LionStep { stochastic_rounding: Some(rounding), ..self }
    }

    /// Whether the parameter is rounded at random.
    #[inline]
    pub fn is_stochastic(&self) -> bool {
        self.stochastic_rounding.is_some()
    }

    /// Sets the factors of the gradient, which are `1 - beta` in f32 by default, as in Keras. An optimizer that forms
    /// them in f64 has other last bits.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] if one is outside [0, 1].
    #[inline]
    pub fn gradient_factors(self, one_minus_beta_1: f32, one_minus_beta_2: f32) -> Result<Self, Error> {
        check("one_minus_beta_1", one_minus_beta_1, is_fraction(one_minus_beta_1), "[0, 1]")?;
        check("one_minus_beta_2", one_minus_beta_2, is_fraction(one_minus_beta_2), "[0, 1]")?;
        let signed = |factor: f32| factor.copysign(if self.is_maximizing() { -1.0 } else { 1.0 });
        Ok(LionStep { rest_1: signed(one_minus_beta_1), rest_2: signed(one_minus_beta_2), ..self })
    }

    /// Steps up the gradient instead of down: the pass uses `-g`. The sign goes into the gradient's factors, so it costs
    /// nothing and every other operation is symmetric in it.
    #[must_use]
    #[inline]
    pub fn maximize(self, maximize: bool) -> Self {
        let sign = if maximize { -1.0 } else { 1.0 };
        LionStep { rest_1: self.rest_1.copysign(sign), rest_2: self.rest_2.copysign(sign), ..self }
    }

    fn is_maximizing(&self) -> bool {
        self.rest_1.is_sign_negative()
    }

    /// Decays an element only if the step moves it towards zero, or not at all: if `sign(c) * p >= 0`, with the
    /// parameter before the step and this step's `c`. A NaN does not decay. Has an effect only with
    /// [`weight_decay`](Self::weight_decay). ("Cautious" weight decay.)
    #[must_use]
    #[inline]
    pub fn masked_decay(self, masked: bool) -> Self {
        LionStep { masked_decay: masked, ..self }
    }

    /// The step that makes the same move from directions, as its gradient, and a momentum of zero.
    pub(crate) fn along_directions(self) -> Self {
        let (gradient, ema) = (GradientTransform::default(), None);
        let (beta, rest) = (0.0, 1.0);
        LionStep {
            beta_1: beta,
            rest_1: rest,
            beta_2: beta,
            rest_2: rest,
            gradient,
            ema,
            follows: true,
            ..self
        }
    }

    /// Sets the transforms of the gradient.
    #[must_use]
    #[inline]
    pub fn gradient(self, gradient: GradientTransform) -> Self {
        LionStep { gradient, ..self }
    }

    /// Short for setting [`GradientTransform::clip`].
    ///
    /// # Errors
    /// As [`GradientTransform::clip`].
    #[inline]
    pub fn clip(self, clip: Clip) -> Result<Self, Error> {
        Ok(LionStep { gradient: self.gradient.clip(clip)?, ..self })
    }

    /// Keeps an average of the parameter in the tensor given to [`StepTensors::ema`](crate::StepTensors::ema).
    #[must_use]
    #[inline]
    pub fn ema(self, ema: Ema) -> Self {
        LionStep { ema: Some(ema), ..self }
    }
}

impl GradientTransform {
    /// The gradient as it is.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }

    /// Divides by the factor that the loss was multiplied with. Zero and infinity are what a dynamic scale comes to
    /// when it halves or doubles for ever; division by them is IEEE's, as in Keras.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] if it is negative or NaN.
    #[inline]
    pub fn loss_scale(self, divisor: f32) -> Result<Self, Error> {
        check("loss_scale_factor", divisor, is_up_to(divisor, f32::INFINITY), "[0, inf]")?;
        Ok(GradientTransform { loss_scale: Some(divisor), ..self })
    }

    /// Uses `(g + accumulator) / steps`; the step then clears the accumulator.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] if `steps` is below 2 or above 2^24, the integers that f32 tells apart.
    #[inline]
    pub fn average_over(self, steps: u32) -> Result<Self, Error> {
        let allowed = (2..=1 << 24).contains(&steps);
        check("gradient_accumulation_steps", steps, allowed, "[2, 16777216]")?;
        Ok(GradientTransform { average_over: NonZeroU32::new(steps), ..self })
    }

    /// Clips.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] if a limit is not finite and positive, or a norm is negative.
    #[inline]
    pub fn clip(self, clip: Clip) -> Result<Self, Error> {
        match clip {
            Clip::Value(limit) => check("clipvalue", limit, positive(limit), "(0, inf)")?,
            Clip::Norm { limit, norm } => {
                check("clipnorm", limit, positive(limit), "(0, inf)")?;
                check("norm", norm, is_up_to(norm, f32::INFINITY) || norm.is_nan(), "[0, inf] or NaN")?;
            }
            // NaN is what a norm that is not finite asks for.
            Clip::Factor(_) => {}
        }
        Ok(GradientTransform { clip: Some(clip), ..self })
    }
}

// These look at bits: if the host has the processor take subnormal numbers for zeros, comparisons do so too. The bits of
// numbers that are not negative have the numbers' order.

fn is_fraction(value: f32) -> bool {
    is_up_to(value, 1.0)
}

fn not_negative(value: f32) -> bool {
    is_up_to(value, f32::MAX)
}

fn positive(value: f32) -> bool {
    // A test of the bits for zero would be compiled to a comparison of numbers.
    (1..=f32::MAX.to_bits()).contains(&value.to_bits())
}

/// Whether a number is in [0, max]; -0 is 0.
fn is_up_to(value: f32, max: f32) -> bool {
    value.to_bits() <= max.to_bits() || value.to_bits() == (-0.0_f32).to_bits()
}

fn check(name: &'static str, value: impl Display, allowed: bool, range: &'static str) -> Result<(), Error> {
    if allowed { Ok(()) } else { Err(Error::Hyperparameter { name, value: value.to_string(), range }) }
}
