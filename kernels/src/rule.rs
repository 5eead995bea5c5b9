//! The arithmetic of Lion, once, generic over the instruction set.
//!
//! The step is that of Chen et al., "Symbolic Discovery of Optimization Algorithms" (2023), algorithm 2, in the
//! order of operations of Keras's `Lion.update_step`:
//!
//! ```text
//! p = p - (p * wd) * lr
//! c = m * b1 + g * (1 - b1)
//! p = p - lr * sign(c)
//! m = m * b2 + g * (1 - b2)
//! ```
//!
//! Every operation here is one primitive of [`Isa`], which rounds once; the compiler contracts none of them into
//! a fused one. That is all it takes for the same bits everywhere, and it is why nothing here may be rearranged:
//! `p * (wd * lr)` is another number.

use crate::isa::Isa;
use crate::settings::{Clip, Ema, Gradient, Step};

/// The step's constants in every lane.
#[derive(Clone, Copy)]
pub(crate) struct StepRule<I: Isa> {
    isa: I,
    learning_rate: I::F32,
    weight_decay: I::F32,
    beta_1: I::F32,
    beta_2: I::F32,
    rest_1: I::F32,
    rest_2: I::F32,
}

impl<I: Isa> StepRule<I> {
    #[inline(always)]
    pub(crate) fn new(isa: I, step: &Step) -> Self {
        StepRule {
            isa,
            learning_rate: isa.splat(step.learning_rate),
            weight_decay: isa.splat(step.weight_decay.unwrap_or(0.0)),
            beta_1: isa.splat(step.beta_1),
            beta_2: isa.splat(step.beta_2),
            rest_1: isa.splat(1.0 - step.beta_1),
            rest_2: isa.splat(1.0 - step.beta_2),
        }
    }

    #[inline(always)]
    pub(crate) fn decayed(&self, parameter: I::F32) -> I::F32 {
        let isa = self.isa;
        isa.sub(parameter, isa.mul(isa.mul(parameter, self.weight_decay), self.learning_rate))
    }

    /// The parameter moved against the sign of the interpolated momentum.
    #[inline(always)]
    pub(crate) fn moved(&self, parameter: I::F32, gradient: I::F32, momentum: I::F32) -> I::F32 {
        let isa = self.isa;
        let direction = isa.add(isa.mul(momentum, self.beta_1), isa.mul(gradient, self.rest_1));
        isa.minus_signed(parameter, self.learning_rate, direction)
    }

    #[inline(always)]
    pub(crate) fn momentum(&self, gradient: I::F32, momentum: I::F32) -> I::F32 {
        let isa = self.isa;
        isa.add(isa.mul(momentum, self.beta_2), isa.mul(gradient, self.rest_2))
    }
}

/// What becomes of a gradient before the step sees it.
#[derive(Clone, Copy)]
pub(crate) struct GradientRule<I: Isa> {
    isa: I,
    unscale: Option<Divisor<I>>,
    accumulation_steps: Option<Divisor<I>>,
    clip: Option<ClipRule<I>>,
}

#[derive(Clone, Copy)]
enum ClipRule<I: Isa> {
    Value { low: I::F32, high: I::F32 },
    Norm { limit: I::F32, divisor: I::F32 },
    Factor(I::F32),
}

impl<I: Isa> GradientRule<I> {
    #[inline(always)]
    pub(crate) fn new(isa: I, gradient: &Gradient) -> Self {
        let clip = match gradient.clip {
            None => None,
            Some(Clip::Value(limit)) => {
                Some(ClipRule::Value { low: isa.splat(-limit), high: isa.splat(limit) })
            }
            Some(Clip::Norm { limit, norm }) => {
                // A NaN norm stays: the comparison is false.
                let divisor = if norm < limit { limit } else { norm };
                Some(ClipRule::Norm { limit: isa.splat(limit), divisor: isa.splat(divisor) })
            }
            Some(Clip::Factor(factor)) => Some(ClipRule::Factor(isa.splat(factor))),
        };
        GradientRule {
            isa,
            unscale: gradient.unscale.map(
                #[inline(always)]
                |divisor| Divisor::new(isa, divisor),
            ),
            accumulation_steps: gradient.accumulation_steps.map(
                #[inline(always)]
                |steps| Divisor::new(isa, steps as f32),
            ),
            clip,
        }
    }

    #[inline(always)]
    pub(crate) fn averages(&self) -> bool {
        self.accumulation_steps.is_some()
    }

    #[inline(always)]
    pub(crate) fn unscaled(&self, gradient: I::F32) -> I::F32 {
        match self.unscale {
            Some(divisor) => divisor.divide(gradient),
            None => gradient,
        }
    }

    /// The mean of the accumulated gradients and this one.
    #[inline(always)]
    pub(crate) fn averaged(&self, gradient: I::F32, accumulator: I::F32) -> I::F32 {
        match self.accumulation_steps {
            Some(steps) => steps.divide(accumulated(self.isa, gradient, accumulator)),
            None => gradient,
        }
    }

    #[inline(always)]
    pub(crate) fn clipped(&self, gradient: I::F32) -> I::F32 {
        let isa = self.isa;
        match self.clip {
            None => gradient,
            // Comparisons with NaN are false, so that a NaN passes through both selections.
            Some(ClipRule::Value { low, high }) => {
                let raised = select(isa, isa.less(gradient, low), low, gradient);
                select(isa, isa.less(high, raised), high, raised)
            }
            Some(ClipRule::Norm { limit, divisor }) => isa.div(isa.mul(gradient, limit), divisor),
            Some(ClipRule::Factor(factor)) => isa.mul(gradient, factor),
        }
    }
}

/// A number to divide by. A division takes as long as moving a 16-bit element's bytes does; loss scales and numbers of
/// steps are mostly powers of two, whose reciprocal is exact, so that the product with it has the quotient's bits.
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

/// Whether a product with the reciprocal has the quotient's bits: of normal powers of two, and of zero and infinity,
/// whose reciprocals are each other.
#[inline(always)]
fn has_exact_reciprocal(divisor: f32) -> bool {
    divisor.to_bits() & 0x007f_ffff == 0
}

#[inline(always)]
fn select<I: Isa>(isa: I, mask: I::Mask, yes: I::F32, no: I::F32) -> I::F32 {
    isa.of_bits(isa.select(mask, isa.to_bits(yes), isa.to_bits(no)))
}

#[inline(always)]
pub(crate) fn accumulated<I: Isa>(isa: I, gradient: I::F32, accumulator: I::F32) -> I::F32 {
    isa.add(gradient, accumulator)
}

/// The exponential moving average of a parameter.
#[derive(Clone, Copy)]
pub(crate) struct EmaRule<I: Isa> {
    isa: I,
    momentum: I::F32,
    rest: I::F32,
}

impl<I: Isa> EmaRule<I> {
    #[inline(always)]
    pub(crate) fn new(isa: I, ema: &Ema) -> Self {
        EmaRule { isa, momentum: isa.splat(ema.momentum), rest: isa.splat(1.0 - ema.momentum) }
    }

    #[inline(always)]
    pub(crate) fn averaged(&self, average: I::F32, parameter: I::F32) -> I::F32 {
        let isa = self.isa;
        isa.add(isa.mul(self.momentum, average), isa.mul(self.rest, parameter))
    }
}
