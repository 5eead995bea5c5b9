//! Settings of each pass. The setters validate every hyperparameter, so running a pass checks nothing again.

use alloc::string::ToString;
use core::fmt::Display;
use core::num::NonZeroU32;

use crate::Error;
use crate::float_state::with_ieee_state;
use crate::rounding::StochasticRounding;

/// The settings of a Lion step: hyperparameters and optional parts of the pass.
///
/// Everything except learning rate and betas is off by default. An option that is off costs nothing.
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
    /// `1 - beta_1` by default; negative if the step maximizes.
    pub(crate) gradient_factor_1: f32,
    pub(crate) gradient_factor_2: f32,
    pub(crate) weight_decay: Option<f32>,
    /// The factor of the decay: the learning rate by default.
    pub(crate) decay_rate: f32,
    pub(crate) masked_decay: bool,
    pub(crate) stochastic_rounding: Option<StochasticRounding>,
    pub(crate) gradient: GradientTransform,
    pub(crate) ema: Option<Ema>,
    /// Whether the step takes directions for its gradient, and a momentum of zero.
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
    /// Clips each element to [-v, v]: `min(max(g, -v), v)`. `v` is finite and positive.
    Value(f32),
    /// Scales the tensor down to the L2 norm `limit`: `(g * limit) / max(norm, limit)`.
    Norm {
        /// The largest norm that passes unchanged, finite and positive.
        limit: f32,
        /// The tensor's norm, from its [`GradientStatistics`](crate::GradientStatistics). A NaN norm makes every
        /// element NaN.
        norm: f32,
    },
    /// Multiplies by a factor, for a norm over many tensors; see [`Clip::global_norm`].
    Factor(f32),
}

impl Clip {
    /// Scales a set of tensors down to the joint L2 norm `limit`: `g * (limit * min(1 / norm, 1 / limit))`.
    ///
    /// A non-finite norm makes every element NaN, as in Keras. The limit is an f64, because Keras divides before it
    /// rounds to f32.
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
    /// Creates an EMA with the given momentum.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] if `momentum` is outside [0, 1].
    #[inline]
    pub fn new(momentum: f32) -> Result<Self, Error> {
        check("ema_momentum", momentum, is_fraction(momentum), "[0, 1]")?;
        Ok(Ema { momentum, overwrite: false })
    }

    /// Sets whether this pass overwrites the parameter with its average.
    #[must_use]
    #[inline]
    pub fn overwrite(self, overwrite: bool) -> Self {
        Ema { overwrite, ..self }
    }
}

/// Returns `1 - beta`. For betas from 0.5 up to but not including 1 the difference is exact (Sterbenz, 1974), so it does
/// not depend on the caller's floating-point state, which takes longer to look at than to subtract.
#[inline(always)]
fn one_minus(betas: [f32; 2]) -> [f32; 2] {
    let differences = || betas.map(|beta| 1.0 - beta);
    match betas.iter().all(|beta| (0.5..1.0).contains(beta)) {
        true => differences(),
        false => with_ieee_state(differences),
    }
}

impl LionStep {
    /// Creates a step without optional parts. A learning rate of -0 counts as 0.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] if `learning_rate` is negative or not finite, or a beta is outside [0, 1]. (Keras and
    /// the crate `lion` also reject a `beta_1` of 0.)
    #[inline(always)]
    pub fn new(learning_rate: f32, beta_1: f32, beta_2: f32) -> Result<Self, Error> {
        check("learning_rate", learning_rate, not_negative(learning_rate), "[0, inf)")?;
        check("beta_1", beta_1, is_fraction(beta_1), "[0, 1]")?;
        check("beta_2", beta_2, is_fraction(beta_2), "[0, 1]")?;
        let [gradient_factor_1, gradient_factor_2] = one_minus([beta_1, beta_2]);
        Ok(LionStep {
            // A backend subtracts the learning rate with the direction's sign, so it must not have a sign itself.
            learning_rate: learning_rate.abs(),
            beta_1,
            beta_2,
            gradient_factor_1,
            gradient_factor_2,
            weight_decay: None,
            decay_rate: learning_rate.abs(),
            masked_decay: false,
            stochastic_rounding: None,
            gradient: GradientTransform::default(),
            ema: None,
            follows: false,
        })
    }

    /// Sets decoupled weight decay: `p = p - (p * weight_decay) * learning_rate` before the step. A decay of 0 still
    /// rewrites a parameter of -0 as +0, as Keras does.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] if `weight_decay` is negative or not finite.
    #[inline]
    pub fn weight_decay(self, weight_decay: f32) -> Result<Self, Error> {
        check("weight_decay", weight_decay, not_negative(weight_decay), "[0, inf)")?;
        Ok(LionStep { weight_decay: Some(weight_decay), ..self })
    }

    /// Sets the factor of the decay, in place of the learning rate: `p = p - (p * weight_decay) * rate`. If `rate` is
    /// the learning rate divided by its maximum, the decay follows the schedule but not the learning rate's magnitude.
    /// Requires [`weight_decay`](Self::weight_decay) to have an effect.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] if `rate` is negative or not finite.
    #[inline]
    pub fn decay_rate(self, rate: f32) -> Result<Self, Error> {
        check("decay_rate", rate, not_negative(rate), "[0, inf)")?;
        Ok(LionStep { decay_rate: rate.abs(), ..self })
    }

    /// Turns on stochastic rounding of the stored parameter: up or down at random, with the exact value as the mean. So
    /// a bf16 parameter moves on average even if a step is less than half of its last place. All other tensors round to
    /// nearest even. Requires a bf16 parameter. A task over a part of a variable needs
    /// [`Task::starting_at`](crate::Task::starting_at).
    #[must_use]
    #[inline]
    pub fn stochastic_rounding(self, rounding: StochasticRounding) -> Self {
        LionStep { stochastic_rounding: Some(rounding), ..self }
    }

    /// Returns whether stochastic rounding is on.
    #[inline]
    pub fn is_stochastic(&self) -> bool {
        self.stochastic_rounding.is_some()
    }

    /// Sets the factors of the gradient. The default is `1 - beta` in f32, as in Keras. Optimizers that compute `1 -
    /// beta` in f64 get slightly different factors.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] if a factor is outside [0, 1].
    #[inline]
    pub fn gradient_factors(self, one_minus_beta_1: f32, one_minus_beta_2: f32) -> Result<Self, Error> {
        check("one_minus_beta_1", one_minus_beta_1, is_fraction(one_minus_beta_1), "[0, 1]")?;
        check("one_minus_beta_2", one_minus_beta_2, is_fraction(one_minus_beta_2), "[0, 1]")?;
        let signed = |factor: f32| factor.copysign(if self.is_maximizing() { -1.0 } else { 1.0 });
        Ok(LionStep {
            gradient_factor_1: signed(one_minus_beta_1),
            gradient_factor_2: signed(one_minus_beta_2),
            ..self
        })
    }

    /// Sets whether the step ascends the gradient: it then uses `-g`. The gradient's factors absorb the sign, so this
    /// costs nothing.
    #[must_use]
    #[inline]
    pub fn maximize(self, maximize: bool) -> Self {
        let sign = if maximize { -1.0 } else { 1.0 };
        LionStep {
            gradient_factor_1: self.gradient_factor_1.copysign(sign),
            gradient_factor_2: self.gradient_factor_2.copysign(sign),
            ..self
        }
    }

    fn is_maximizing(&self) -> bool {
        self.gradient_factor_1.is_sign_negative()
    }

    /// Sets cautious weight decay: an element decays only if the step moves it towards zero or leaves it in place, that
    /// is if `sign(c) * p >= 0`, with the parameter before the step and this step's `c`. A NaN does not decay. Requires
    /// [`weight_decay`](Self::weight_decay) to have an effect.
    #[must_use]
    #[inline]
    pub fn masked_decay(self, masked: bool) -> Self {
        LionStep { masked_decay: masked, ..self }
    }

    /// Returns the step that makes the same move from directions, taken as its gradient, and a momentum of zero.
    pub(crate) fn along_directions(self) -> Self {
        LionStep {
            beta_1: 0.0,
            beta_2: 0.0,
            gradient_factor_1: 1.0,
            gradient_factor_2: 1.0,
            gradient: GradientTransform::default(),
            ema: None,
            follows: true,
            ..self
        }
    }

    /// Sets the gradient transforms.
    #[must_use]
    #[inline]
    pub fn gradient(self, gradient: GradientTransform) -> Self {
        LionStep { gradient, ..self }
    }

    /// Sets the clip: short for [`GradientTransform::clip`].
    ///
    /// # Errors
    /// The errors of [`GradientTransform::clip`].
    #[inline]
    pub fn clip(self, clip: Clip) -> Result<Self, Error> {
        Ok(LionStep { gradient: self.gradient.clip(clip)?, ..self })
    }

    /// Updates an EMA of the parameter, in the tensor given to [`StepTensors::ema`](crate::StepTensors::ema).
    #[must_use]
    #[inline]
    pub fn ema(self, ema: Ema) -> Self {
        LionStep { ema: Some(ema), ..self }
    }
}

impl GradientTransform {
    /// Returns no transform: the gradient stays unchanged.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }

    /// Divides the gradient by the loss scale. Zero and infinity are allowed, because a dynamic scale that halves or
    /// doubles repeatedly reaches them. Division by them follows IEEE 754, as in Keras.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] if `divisor` is negative or NaN.
    #[inline]
    pub fn loss_scale(self, divisor: f32) -> Result<Self, Error> {
        check("loss_scale_factor", divisor, is_up_to(divisor, f32::INFINITY), "[0, inf]")?;
        Ok(GradientTransform { loss_scale: Some(divisor), ..self })
    }

    /// Averages with the accumulator: `(g + accumulator) / steps`. The step then clears the accumulator.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] if `steps` is below 2 or above 2^24. An f32 represents every integer up to 2^24.
    #[inline]
    pub fn average_over(self, steps: u32) -> Result<Self, Error> {
        let allowed = (2..=1 << 24).contains(&steps);
        check("gradient_accumulation_steps", steps, allowed, "[2, 16777216]")?;
        Ok(GradientTransform { average_over: NonZeroU32::new(steps), ..self })
    }

    /// Sets the clip.
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
            // Every factor is allowed: `Clip::global_norm` returns NaN for a non-finite norm.
            Clip::Factor(_) => {}
        }
        Ok(GradientTransform { clip: Some(clip), ..self })
    }
}

// These functions compare bits. If the host has turned on denormals-are-zero, float comparisons would treat subnormal
// numbers as zeros. The bits of non-negative floats have the order of their values.

fn is_fraction(value: f32) -> bool {
    is_up_to(value, 1.0)
}

fn not_negative(value: f32) -> bool {
    is_up_to(value, f32::MAX)
}

fn positive(value: f32) -> bool {
    // Not `bits != 0`: the compiler turns that into a float comparison.
    (1..=f32::MAX.to_bits()).contains(&value.to_bits())
}

/// Returns whether a number is in [0, max]; -0 counts as 0.
fn is_up_to(value: f32, max: f32) -> bool {
    value.to_bits() <= max.to_bits() || value.to_bits() == (-0.0_f32).to_bits()
}

#[inline]
fn check(name: &'static str, value: impl Display, allowed: bool, range: &'static str) -> Result<(), Error> {
    // Not inline, so that the checks of a step's numbers are.
    #[cold]
    fn wrong(name: &'static str, value: impl Display, range: &'static str) -> Error {
        Error::Hyperparameter { name, value: value.to_string(), range }
    }
    if allowed { Ok(()) } else { Err(wrong(name, value, range)) }
}
