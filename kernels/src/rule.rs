//! The arithmetic of Lion: written once, generic over the instruction set and over the rule's variants.
//!
//! The step is algorithm 2 of Chen et al., "Symbolic Discovery of Optimization Algorithms" (2023), in the order of
//! operations of Keras's `Lion.update_step`:
//!
//! ```text
//! p = p - (p * wd) * lr               or another rate than lr
//! c = m * b1 + g * (1 - b1)
//! p = p - lr * sign(c)
//! m = m * b2 + g * (1 - b2)
//! ```
//!
//! Every operation here is one operation of [`Isa`], which rounds once. The compiler never fuses two of them. So every
//! backend gives the same bits, and nothing here may be rearranged: `p * (wd * lr)` is a different number.
//!
//! A variant is a type: see [`Decay`] and [`Scale`]. A kernel that is generic over them is compiled once per variant,
//! without a branch in its loop.

use core::marker::PhantomData;

use crate::isa::Isa;
use crate::settings::{Clip, Ema, GradientTransform, LionStep};

/// A variant of weight decay. The macro [`with_decay`] lists the variants.
pub(crate) trait Decay {
    /// Returns the parameter after the decay. `direction` is this step's `c`.
    fn apply<I: Isa, S: Scale>(rule: &LionRule<I, Self, S>, parameter: I::F32, direction: I::F32) -> I::F32
    where
        Self: Sized;
}

/// No decay.
pub(crate) struct NoDecay;
/// Decays every element.
pub(crate) struct PlainDecay;
/// Decays only elements that the step moves towards zero or leaves in place: `sign(c) * p >= 0`.
pub(crate) struct MaskedDecay;

/// Evaluates an expression with a type alias bound to the [`Decay`] of a step.
macro_rules! with_decay {
    ($step:expr, $D:ident => $body:expr) => {{
        use $crate::rule::{MaskedDecay, NoDecay, PlainDecay};
        match ($step.weight_decay.is_some(), $step.masked_decay) {
            (false, _) => {
                type $D = NoDecay;
                $body
            }
            (true, false) => {
                type $D = PlainDecay;
                $body
            }
            (true, true) => {
                type $D = MaskedDecay;
                $body
            }
        }
    }};
}
pub(crate) use with_decay;

impl Decay for NoDecay {
    #[inline(always)]
    fn apply<I: Isa, S: Scale>(_: &LionRule<I, Self, S>, parameter: I::F32, _: I::F32) -> I::F32 {
        parameter
    }
}

impl Decay for PlainDecay {
    #[inline(always)]
    fn apply<I: Isa, S: Scale>(rule: &LionRule<I, Self, S>, parameter: I::F32, _: I::F32) -> I::F32 {
        rule.decayed(parameter)
    }
}

impl Decay for MaskedDecay {
    #[inline(always)]
    fn apply<I: Isa, S: Scale>(rule: &LionRule<I, Self, S>, parameter: I::F32, direction: I::F32) -> I::F32 {
        let isa = rule.isa;
        // -sign(c) * p, exactly. Positive if the element must not decay, NaN if either factor is NaN.
        let against = isa.mul(isa.sub_signed(isa.splat(0.0), isa.splat(1.0), direction), parameter);
        let decayed = select(isa, isa.less(isa.splat(0.0), against), parameter, rule.decayed(parameter));
        select(isa, isa.is_nan(against), parameter, decayed)
    }
}

/// A variant of gradient scaling: whether the rule multiplies the gradient by a factor first.
pub(crate) trait Scale {
    fn apply<I: Isa, D: Decay>(rule: &LionRule<I, D, Self>, gradient: I::F32) -> I::F32
    where
        Self: Sized;
}

/// Uses the gradient unchanged.
pub(crate) struct Unscaled;
/// Multiplies the gradient by [`GradientTransform::factor`].
pub(crate) struct Scaled;

impl Scale for Unscaled {
    #[inline(always)]
    fn apply<I: Isa, D: Decay>(_: &LionRule<I, D, Self>, gradient: I::F32) -> I::F32 {
        gradient
    }
}

impl Scale for Scaled {
    #[inline(always)]
    fn apply<I: Isa, D: Decay>(rule: &LionRule<I, D, Self>, gradient: I::F32) -> I::F32 {
        rule.isa.mul(gradient, rule.factor)
    }
}

/// The Lion rule, with the step's constants broadcast to all lanes.
pub(crate) struct LionRule<I: Isa, D, S> {
    isa: I,
    learning_rate: I::F32,
    weight_decay: I::F32,
    decay_rate: I::F32,
    beta_1: I::F32,
    beta_2: I::F32,
    gradient_factor_1: I::F32,
    gradient_factor_2: I::F32,
    factor: I::F32,
    variant: PhantomData<(D, S)>,
}

impl<I: Isa, D: Decay, S: Scale> LionRule<I, D, S> {
    #[inline(always)]
    pub(crate) fn new(isa: I, step: &LionStep) -> Self {
        LionRule {
            isa,
            learning_rate: isa.splat(step.learning_rate),
            weight_decay: isa.splat(step.weight_decay.unwrap_or(0.0)),
            decay_rate: isa.splat(step.decay_rate),
            beta_1: isa.splat(step.beta_1),
            beta_2: isa.splat(step.beta_2),
            gradient_factor_1: isa.splat(step.gradient_factor_1),
            gradient_factor_2: isa.splat(step.gradient_factor_2),
            factor: isa.splat(step.gradient.factor().unwrap_or(1.0)),
            variant: PhantomData,
        }
    }

    /// Returns the new parameter and the new momentum.
    #[inline(always)]
    pub(crate) fn step(&self, parameter: I::F32, gradient: I::F32, momentum: I::F32) -> (I::F32, I::F32) {
        let isa = self.isa;
        let gradient = S::apply(self, gradient);
        let direction = self.direction(gradient, momentum);
        let decayed = D::apply(self, parameter, direction);
        let moved = isa.sub_signed(decayed, self.learning_rate, direction);
        (moved, isa.add(isa.mul(momentum, self.beta_2), isa.mul(gradient, self.gradient_factor_2)))
    }

    /// `c`, whose sign is the step's direction.
    #[inline(always)]
    fn direction(&self, gradient: I::F32, momentum: I::F32) -> I::F32 {
        let isa = self.isa;
        isa.add(isa.mul(momentum, self.beta_1), isa.mul(gradient, self.gradient_factor_1))
    }

    /// The sign of `c` as a number: -1, +0, 1 or NaN.
    #[inline(always)]
    pub(crate) fn sign(&self, gradient: I::F32, momentum: I::F32) -> I::F32 {
        let isa = self.isa;
        let direction = self.direction(S::apply(self, gradient), momentum);
        let zero = isa.splat(0.0);
        isa.sub(zero, isa.sub_signed(zero, isa.splat(1.0), direction))
    }

    #[inline(always)]
    fn decayed(&self, parameter: I::F32) -> I::F32 {
        let isa = self.isa;
        isa.sub(parameter, isa.mul(isa.mul(parameter, self.weight_decay), self.decay_rate))
    }
}

impl GradientTransform {
    /// Returns the factor, if the transform is only a multiplication: a clip by a factor alone, or a loss scale alone
    /// whose reciprocal is exact.
    #[inline(always)]
    pub(crate) fn factor(&self) -> Option<f32> {
        match *self {
            GradientTransform { loss_scale: None, average_over: None, clip: Some(Clip::Factor(factor)) } => {
                Some(factor)
            }
            GradientTransform { loss_scale: Some(divisor), average_over: None, clip: None } => {
                has_exact_reciprocal(divisor).then(|| 1.0 / divisor)
            }
            _ => None,
        }
    }
}

/// The gradient transforms, with their constants broadcast to all lanes.
#[derive(Clone, Copy)]
pub(crate) struct GradientOps<I: Isa> {
    isa: I,
    loss_scale: Option<Divisor<I>>,
    average_over: Option<Divisor<I>>,
    clip: Option<ClipRule<I>>,
}

#[derive(Clone, Copy)]
enum ClipRule<I: Isa> {
    Value { low: I::F32, high: I::F32 },
    Norm { limit: I::F32, divisor: I::F32 },
    Factor(I::F32),
}

impl<I: Isa> GradientOps<I> {
    #[inline(always)]
    pub(crate) fn new(isa: I, gradient: &GradientTransform) -> Self {
        let clip = match gradient.clip {
            None => None,
            Some(Clip::Value(limit)) => {
                Some(ClipRule::Value { low: isa.splat(-limit), high: isa.splat(limit) })
            }
            Some(Clip::Norm { limit, norm }) => {
                // A NaN norm stays NaN, because the comparison is false.
                let divisor = if norm < limit { limit } else { norm };
                Some(ClipRule::Norm { limit: isa.splat(limit), divisor: isa.splat(divisor) })
            }
            Some(Clip::Factor(factor)) => Some(ClipRule::Factor(isa.splat(factor))),
        };
        GradientOps {
            isa,
            loss_scale: gradient.loss_scale.map(
                #[inline(always)]
                |divisor| Divisor::new(isa, divisor),
            ),
            average_over: gradient.average_over.map(
                #[inline(always)]
                |steps| Divisor::new(isa, steps.get() as f32),
            ),
            clip,
        }
    }

    #[inline(always)]
    pub(crate) fn averages(&self) -> bool {
        self.average_over.is_some()
    }

    /// Divides the gradient by the loss scale.
    #[inline(always)]
    pub(crate) fn unscaled(&self, gradient: I::F32) -> I::F32 {
        match self.loss_scale {
            Some(divisor) => divisor.divide(gradient),
            None => gradient,
        }
    }

    /// Averages the accumulated gradients and this one.
    #[inline(always)]
    pub(crate) fn averaged(&self, gradient: I::F32, accumulator: I::F32) -> I::F32 {
        match self.average_over {
            Some(steps) => steps.divide(self.isa.add(gradient, accumulator)),
            None => gradient,
        }
    }

    #[inline(always)]
    pub(crate) fn clipped(&self, gradient: I::F32) -> I::F32 {
        let isa = self.isa;
        match self.clip {
            None => gradient,
            // Comparisons with NaN are false, so a NaN passes through both selections.
            Some(ClipRule::Value { low, high }) => {
                let raised = select(isa, isa.less(gradient, low), low, gradient);
                select(isa, isa.less(high, raised), high, raised)
            }
            Some(ClipRule::Norm { limit, divisor }) => isa.div(isa.mul(gradient, limit), divisor),
            Some(ClipRule::Factor(factor)) => isa.mul(gradient, factor),
        }
    }
}

/// A divisor, as its reciprocal if the product has the quotient's bits. A division takes as long as moving the bytes of
/// a 16-bit element. Most loss scales and accumulation step counts are powers of two, whose reciprocals are exact.
#[derive(Clone, Copy)]
struct Divisor<I: Isa> {
    isa: I,
    reciprocal: bool,
    value: I::F32,
}

impl<I: Isa> Divisor<I> {
    #[inline(always)]
    fn new(isa: I, divisor: f32) -> Self {
        let reciprocal = has_exact_reciprocal(divisor);
        Divisor { isa, reciprocal, value: isa.splat(if reciprocal { 1.0 / divisor } else { divisor }) }
    }

    #[inline(always)]
    fn divide(&self, value: I::F32) -> I::F32 {
        match self.reciprocal {
            true => self.isa.mul(value, self.value),
            false => self.isa.div(value, self.value),
        }
    }
}

/// Returns whether a product with the reciprocal has the quotient's bits. This holds for normal powers of two, and for
/// zero and infinity, which are each other's reciprocals.
#[inline(always)]
fn has_exact_reciprocal(divisor: f32) -> bool {
    divisor.to_bits() & 0x007f_ffff == 0
}

#[inline(always)]
fn select<I: Isa>(isa: I, mask: I::Mask, yes: I::F32, no: I::F32) -> I::F32 {
    isa.from_bits(isa.select(mask, isa.to_bits(yes), isa.to_bits(no)))
}

/// The exponential moving average of a parameter, with its constants broadcast to all lanes.
#[derive(Clone, Copy)]
pub(crate) struct EmaRule<I: Isa> {
    isa: I,
    momentum: I::F32,
    one_minus_momentum: I::F32,
}

impl<I: Isa> EmaRule<I> {
    #[inline(always)]
    pub(crate) fn new(isa: I, ema: &Ema) -> Self {
        EmaRule { isa, momentum: isa.splat(ema.momentum), one_minus_momentum: isa.splat(1.0 - ema.momentum) }
    }

    #[inline(always)]
    pub(crate) fn averaged(&self, average: I::F32, parameter: I::F32) -> I::F32 {
        let isa = self.isa;
        isa.add(isa.mul(self.momentum, average), isa.mul(self.one_minus_momentum, parameter))
    }
}
