/// What a call did and found. What it did not have to find out anyway is `None`: metrics cost nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// What the call did.
    pub outcome: Outcome,
    /// The learning rate of the call, without the multiplier of a group.
    pub learning_rate: f32,
    /// What the gradients were divided by, static or dynamic, where the loss is scaled.
    pub loss_scale: Option<f32>,
    /// The L2 norm over all gradients of an update, unscaled and averaged, before they were clipped. Known with
    /// `clipnorm`, `global_clipnorm` and dynamic loss scaling. It is rounded once to f32, and infinite where the sum
    /// of the squares does not fit one.
    pub gradient_norm: Option<f32>,
    /// The same after they were clipped: not known with `clipvalue`.
    pub clipped_norm: Option<f32>,
    /// Whether clipping changed a gradient by more than rounding; a norm that is not finite counts as clipped. Known
    /// where the norm is, and in an update without any clip.
    pub clipped: Option<bool>,
    /// How many elements of the gradients are infinite or NaN as they were passed, known where
    /// [`gradient_norm`](Self::gradient_norm) is and in every call with dynamic loss scaling. Only with the latter
    /// do variables count that are overwritten with their gradient.
    pub non_finite: Option<u64>,
    /// The share, from 0 to 1, of the elements of bf16 and f16 parameters that a step of this learning rate cannot move,
    /// as they are rounded to nearest: of a sample of at most 4,096 elements of each variable, after its update. Known in
    /// the updates 1, 2, 4, 8, … unless the learning rate rises. Parameters that are rounded at random or have low halves
    /// are not among them; without any others the share is 0.
    pub stalled_fraction: Option<f64>,
}

impl Metrics {
    /// Of a call that does nothing, and the start of others.
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

/// What a call of [`Lion::apply`](crate::Lion::apply) did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It named no variable: nothing.
    Empty,
    /// It moved the parameters.
    Updated,
    /// It added the gradients to the accumulators.
    Accumulated,
    /// Only variables that are overwritten with their gradient had one: those were, and nothing else happened but
    /// that the call was counted.
    Overwritten,
    /// A gradient was not finite: the dynamic loss scale was halved, and nothing else happened.
    Skipped,
}
