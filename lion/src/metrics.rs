/// The results of a step. Fields that the step did not need to compute are `None`, so metrics cost nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// The outcome of the step.
    pub outcome: Outcome,
    /// The learning rate of the step, without the multiplier of a group.
    pub learning_rate: f32,
    /// The static or dynamic loss scale, which divides the gradients.
    pub loss_scale: Option<f32>,
    /// The joint L2 norm of all gradients of an update, after unscaling and averaging, before clipping. Known with
    /// `clipnorm`, `global_clipnorm` and dynamic loss scaling. It is rounded once to f32, and infinite if the sum of the
    /// squares is too large for an f32.
    pub gradient_norm: Option<f32>,
    /// The same norm after clipping. Unknown with `clipvalue`.
    pub clipped_norm: Option<f32>,
    /// Whether clipping changed a gradient by more than rounding. A non-finite norm counts as clipped. Known if the norm
    /// is known, and in an update without clipping.
    pub clipped: Option<bool>,
    /// The number of infinite and NaN elements of the gradients as passed. Known if
    /// [`gradient_norm`](Self::gradient_norm) is, and in every step with dynamic loss scaling. Variables that are
    /// overwritten with their gradient count only with dynamic loss scaling.
    pub non_finite: Option<u64>,
    /// The fraction, from 0 to 1, of elements of bf16 and f16 parameters that a step of this learning rate cannot move,
    /// because it rounds to nothing. It is measured after the update on at most 4,096 elements of each variable, in the
    /// updates 1, 2, 4, 8, … unless the learning rate rises. Parameters with stochastic rounding or low halves are not
    /// measured; if no others exist, the fraction is 0.
    pub stalled_fraction: Option<f64>,
}

impl Metrics {
    /// Returns the metrics of an empty step.
    pub(crate) fn empty(learning_rate: f32, loss_scale: Option<f32>) -> Self {
        Metrics {
            outcome: Outcome::Empty,
            learning_rate,
            loss_scale,
            gradient_norm: None,
            clipped_norm: None,
            clipped: None,
            non_finite: None,
            stalled_fraction: None,
        }
    }
}

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The step named no variable. Nothing happened.
    Empty,
    /// The step updated the parameters.
    Updated,
    /// The step added the gradients to the accumulators.
    Accumulated,
    /// Only variables that are overwritten with their gradient had a gradient. They were overwritten and the step was
    /// counted; nothing else changed.
    Overwritten,
    /// A gradient was not finite. The dynamic loss scale was halved; nothing else changed.
    Skipped,
}
