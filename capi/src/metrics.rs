//! Metrics of the last step, and the learning rate and loss scale of the next.

use lion::{Metrics, Outcome};

use crate::optimizer::{LionOptimizer, State, call};
use crate::status::LionStatus;
use crate::structs::{self, Struct};

/// An outcome: there was no step yet, or it named no variable.
pub const LION_NOTHING: u32 = 0;
/// An outcome: the step updated the parameters.
pub const LION_UPDATED: u32 = 1;
/// An outcome: the step added the gradients to the accumulators.
pub const LION_ACCUMULATED: u32 = 2;
/// An outcome: only variables that are overwritten with their gradient had a gradient.
pub const LION_OVERWRITTEN: u32 = 3;
/// An outcome: a gradient was not finite. The dynamic loss scale was halved, and nothing else changed.
pub const LION_SKIPPED: u32 = 4;
/// An outcome without a number in this version.
const UNKNOWN: u32 = u32::MAX;

/// A bit of `known`: `loss_scale`.
pub const LION_KNOWS_LOSS_SCALE: u32 = 1;
/// A bit of `known`: `gradient_norm`.
pub const LION_KNOWS_GRADIENT_NORM: u32 = 2;
/// A bit of `known`: `clipped_norm`.
pub const LION_KNOWS_CLIPPED_NORM: u32 = 4;
/// A bit of `known`: `clipped`.
pub const LION_KNOWS_CLIPPED: u32 = 8;
/// A bit of `known`: `non_finite`.
pub const LION_KNOWS_NON_FINITE: u32 = 16;

/// Metrics of the last step, and the learning rate and loss scale of the next. Metrics cost nothing: a value that the step did
/// not need is unknown. Then its bit in `known` is 0, and so is the field.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionMetrics {
    /// `sizeof(LionMetrics)`, which the caller sets.
    pub struct_size: usize,
    /// The outcome of the last step: `LION_NOTHING`, `LION_UPDATED` or another outcome.
    pub outcome: u32,
    /// Which fields are known: the sum of some `LION_KNOWS_...`.
    pub known: u32,
    /// The learning rate of the last step.
    pub learning_rate: f32,
    /// The divisor of the gradients, if the loss is scaled.
    pub loss_scale: f32,
    /// The L2 norm of all gradients before clipping: known with `clipnorm`, `global_clipnorm` and dynamic loss scaling.
    pub gradient_norm: f32,
    /// The norm after clipping: unknown with `clipvalue`.
    pub clipped_norm: f32,
    /// 1 if clipping changed a gradient by more than rounding.
    pub clipped: u32,
    /// The learning rate of the next step.
    pub next_learning_rate: f32,
    /// The factor for the loss of the next step; 1 without a loss scale.
    pub next_loss_scale: f32,
    /// Zero.
    pub reserved: u32,
    /// The number of elements of the gradients that were infinite or NaN.
    pub non_finite: u64,
    /// The steps so far, without those that a dynamic loss scale skipped: the number that schedules get in the next step.
    pub iterations: u64,
}

// SAFETY: `repr(C)`, words and pairs of 4 bytes alone.
unsafe impl Struct for LionMetrics {
    const NAME: &'static str = "LionMetrics";
    const DEFAULT: Self = LionMetrics {
        struct_size: size_of::<Self>(),
        outcome: LION_NOTHING,
        known: 0,
        learning_rate: 0.0,
        loss_scale: 0.0,
        gradient_norm: 0.0,
        clipped_norm: 0.0,
        clipped: 0,
        next_learning_rate: 0.0,
        next_loss_scale: 0.0,
        reserved: 0,
        non_finite: 0,
        iterations: 0,
    };
}

impl LionMetrics {
    /// Takes over a step's metrics, field by field. The step has just written them one by one, and a copy of several at once
    /// would wait until these stores have reached the cache.
    #[inline]
    pub(crate) fn set(&mut self, metrics: &Metrics) {
        self.outcome = match metrics.outcome {
            Outcome::Empty => LION_NOTHING,
            Outcome::Updated => LION_UPDATED,
            Outcome::Accumulated => LION_ACCUMULATED,
            Outcome::Overwritten => LION_OVERWRITTEN,
            Outcome::Skipped => LION_SKIPPED,
            _ => UNKNOWN,
        };
        self.learning_rate = metrics.learning_rate;
        let (clipped, known) = match metrics.clipped {
            Some(clipped) => (clipped, LION_KNOWS_CLIPPED),
            None => (false, 0),
        };
        let Metrics { loss_scale, gradient_norm, clipped_norm, non_finite, .. } = *metrics;
        let norms = gradient_norm.is_some() | clipped_norm.is_some();
        let measured = norms | loss_scale.is_some() | non_finite.is_some();
        // Most steps measure nothing, and the fields are zero already.
        if measured | (self.known & !LION_KNOWS_CLIPPED != 0) {
            self.set_measured(loss_scale, gradient_norm, clipped_norm, non_finite);
        }
        self.clipped = u32::from(clipped);
        self.known = self.known & !LION_KNOWS_CLIPPED | known;
    }

    #[cold]
    fn set_measured(
        &mut self,
        loss_scale: Option<f32>,
        gradient_norm: Option<f32>,
        clipped_norm: Option<f32>,
        non_finite: Option<u64>,
    ) {
        let known = |bit: u32, is_known: bool| if is_known { bit } else { 0 };
        self.known = known(LION_KNOWS_LOSS_SCALE, loss_scale.is_some())
            | known(LION_KNOWS_GRADIENT_NORM, gradient_norm.is_some())
            | known(LION_KNOWS_CLIPPED_NORM, clipped_norm.is_some())
            | known(LION_KNOWS_NON_FINITE, non_finite.is_some());
        self.loss_scale = loss_scale.unwrap_or_default();
        self.gradient_norm = gradient_norm.unwrap_or_default();
        self.clipped_norm = clipped_norm.unwrap_or_default();
        self.non_finite = non_finite.unwrap_or_default();
    }
}

impl State {
    fn metrics(&self) -> LionMetrics {
        LionMetrics {
            next_learning_rate: self.lion.learning_rate(),
            next_loss_scale: self.lion.scale_loss(1.0),
            iterations: self.lion.iterations(),
            ..self.metrics
        }
    }
}

/// Writes the metrics of the last step, by `lion_apply` or `lion_finish`, and the numbers that the next one begins with.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `metrics` is null, or begins with its size and is writable for as many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_metrics(
    optimizer: *mut LionOptimizer,
    metrics: *mut LionMetrics,
) -> LionStatus {
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, |optimizer| structs::write("metrics", metrics, optimizer.metrics())) }
}
