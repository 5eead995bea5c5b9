//! Options of one step: its position in accumulation and average cycles, and gradient clipping.

use lion_kernels::{Clip, Ema, Error, GradientStatistics, GradientTransform};

/// Position of a parameter in its accumulation and average cycles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cycle {
    /// The number of the step, if it is counted.
    pub(crate) step: Option<u64>,
    /// How many gradients make an update.
    pub(crate) accumulation: Option<u32>,
    /// Whether this step moves the parameter.
    pub(crate) updates: bool,
    /// How its average moves.
    pub(crate) ema: Option<Ema>,
}

impl Cycle {
    /// Returns the gradient transforms before clipping.
    pub(crate) fn transform(&self, transform: &GradientTransform) -> Result<GradientTransform, Error> {
        match self.accumulation {
            Some(steps) if self.updates => transform.average_over(steps),
            _ => Ok(*transform),
        }
    }

    /// Whether this step ends a window of accumulation.
    pub(crate) fn averages(&self) -> bool {
        self.updates && self.accumulation.is_some()
    }
}

/// Gradient clipping of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Clipping {
    Off,
    Value(f32),
    /// Each tensor by its own norm.
    Norm(f32),
    /// All tensors of the groups that clip so, by their joint norm.
    Global(f64),
}

impl Clipping {
    /// Checks the limit.
    pub(crate) fn check(self) -> Result<(), Error> {
        // A norm of one is any.
        self.clip(&GradientStatistics::default(), 1.0)
            .map_or(Ok(()), |clip| GradientTransform::new().clip(clip).map(drop))?;
        match self {
            Clipping::Global(limit) => {
                GradientTransform::new().clip(Clip::Norm { limit: limit as f32, norm: 1.0 }).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Whether norms are needed before a step.
    pub(crate) fn needs_norms(self) -> bool {
        matches!(self, Clipping::Norm(_) | Clipping::Global(_))
    }

    /// The clip of a tensor with these statistics, where the joint norm is `joint`.
    pub(crate) fn clip(self, own: &GradientStatistics, joint: f32) -> Option<Clip> {
        match self {
            Clipping::Off => None,
            Clipping::Value(limit) => Some(Clip::Value(limit)),
            Clipping::Norm(limit) => Some(Clip::Norm { limit, norm: own.norm() }),
            Clipping::Global(limit) => Some(Clip::global_norm(limit, joint)),
        }
    }
}
