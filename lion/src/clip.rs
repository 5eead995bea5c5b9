//! Which clip is on, what it needs to know, and what it does to the norm.

use lion_kernels::{Clip, GradientStatistics};

use crate::Config;

/// The clip that is on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ClipMode {
    Off,
    /// Each tensor by its own norm.
    Norm(f32),
    /// All tensors by their joint norm. A double, because Keras divides before it rounds.
    Global(f64),
    /// Each element.
    Value(f32),
}

impl ClipMode {
    /// A valid config has at most one.
    pub(crate) fn new(config: &Config) -> Self {
        match (config.clipnorm, config.global_clipnorm, config.clipvalue) {
            (Some(limit), _, _) => ClipMode::Norm(limit as f32),
            (_, Some(limit), _) => ClipMode::Global(limit),
            (_, _, Some(limit)) => ClipMode::Value(limit as f32),
            (None, None, None) => ClipMode::Off,
        }
    }

    /// The clip that all tensors of a call have in common, as far as it is known; `norm` is their joint norm. It is used
    /// whether it exceeds the limit or not: Keras's arithmetic rounds in either case.
    fn joint(self, norm: Option<f32>) -> Option<Clip> {
        match self {
            ClipMode::Off | ClipMode::Norm(_) => None,
            ClipMode::Global(limit) => norm.map(|norm| Clip::global_norm(limit, norm)),
            ClipMode::Value(limit) => Some(Clip::Value(limit)),
        }
    }

    /// The clip of a tensor of its own, where it has one; the statistics are the tensor's.
    pub(crate) fn own(self, tensor: Option<&GradientStatistics>) -> Option<Clip> {
        let ClipMode::Norm(limit) = self else { return None };
        let tensor = tensor.expect("a call that clips each tensor by its norm has measured them");
        Some(Clip::Norm { limit, norm: tensor.norm() })
    }
}

/// What a call finds out about its gradients.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GradientSummary {
    /// Of all gradients that take part in clipping, unscaled and averaged, in the order of registration.
    all: GradientStatistics,
    /// The joint norm of those, when all have been added.
    norm: f32,
    /// What clips all of them alike.
    pub(crate) clip: Option<Clip>,
    /// Elements that are not finite, of all gradients that were looked at.
    pub(crate) non_finite: u64,
    /// The squares of each tensor's norm after it was clipped on its own.
    clipped_squares: f64,
    /// Whether a tensor was clipped on its own.
    clipped_one: bool,
}

/// The joint norm before and after clipping, and whether clipping changed it, as far as they are known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClipMetrics {
    pub(crate) before: Option<f32>,
    pub(crate) after: Option<f32>,
    pub(crate) clipped: Option<bool>,
}

impl GradientSummary {
    /// Of a call that has not looked at its gradients.
    pub(crate) fn before(clipping: ClipMode) -> Self {
        GradientSummary { clip: clipping.joint(None), ..GradientSummary::default() }
    }

    /// Adds the next gradient that takes part in clipping.
    pub(crate) fn add(&mut self, clipping: ClipMode, tensor: &GradientStatistics) {
        self.all = self.all.merge(tensor);
        self.non_finite += tensor.non_finite;
        if let ClipMode::Norm(limit) = clipping {
            let norm = tensor.norm();
            let within = norm <= limit;
            let clipped = if norm > limit { limit } else { norm };
            self.clipped_squares += f64::from(clipped) * f64::from(clipped);
            self.clipped_one |= !within;
        }
    }

    /// When all have been added.
    pub(crate) fn finish(&mut self, clipping: ClipMode) {
        self.norm = self.all.norm();
        self.clip = clipping.joint(Some(self.norm));
    }

    /// For a call whose gradients were all measured.
    pub(crate) fn norms(&self, clipping: ClipMode) -> ClipMetrics {
        let norm = self.norm;
        let (after, clipped) = match clipping {
            ClipMode::Off => (Some(norm), Some(false)),
            ClipMode::Norm(_) => (Some((self.clipped_squares as f32).sqrt()), Some(self.clipped_one)),
            ClipMode::Global(limit) => {
                let within = f64::from(norm) <= limit;
                let after = match self.clip {
                    Some(Clip::Factor(factor)) => Some(norm * factor),
                    _ => None,
                };
                (after, Some(!within))
            }
            ClipMode::Value(limit) => {
                // The squares of finite elements have a finite sum; beside a NaN an infinity is not seen.
                let above = self.all.max_abs > limit || self.all.sum_of_squares == f64::INFINITY;
                let unknown = !above && self.all.sum_of_squares.is_nan();
                (None, if unknown { None } else { Some(above) })
            }
        };
        ClipMetrics { before: Some(norm), after, clipped }
    }
}
