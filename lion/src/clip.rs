//! Gradient clipping: by value, by norm, by global norm.

use lion_kernels::{Clip, GradientStatistics};

use crate::Config;

/// The optimizer's way to clip gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ClipMode {
    Off,
    /// Clips each tensor by its own norm.
    Norm(f32),
    /// Clips all tensors by their joint norm. An f64, because Keras divides before it rounds.
    Global(f64),
    /// Clips each element.
    Value(f32),
}

impl ClipMode {
    /// Returns the mode of a valid config, which sets at most one of the three limits.
    pub(crate) fn new(config: &Config) -> Self {
        match (config.clipnorm, config.global_clipnorm, config.clipvalue) {
            (Some(limit), _, _) => ClipMode::Norm(limit as f32),
            (_, Some(limit), _) => ClipMode::Global(limit),
            (_, _, Some(limit)) => ClipMode::Value(limit as f32),
            (None, None, None) => ClipMode::Off,
        }
    }

    /// Returns the clip that all tensors of a step share, if it is known. `norm` is their joint norm. The clip applies
    /// even if the norm is within the limit, because Keras's arithmetic rounds in either case.
    fn joint(self, norm: Option<f32>) -> Option<Clip> {
        match self {
            ClipMode::Off | ClipMode::Norm(_) => None,
            ClipMode::Global(limit) => norm.map(|norm| Clip::global_norm(limit, norm)),
            ClipMode::Value(limit) => Some(Clip::Value(limit)),
        }
    }

    /// Returns the clip of one tensor by its own norm, from the tensor's statistics.
    pub(crate) fn own(self, tensor: Option<&GradientStatistics>) -> Option<Clip> {
        let ClipMode::Norm(limit) = self else { return None };
        let tensor = tensor.expect("a step that clips each tensor by its norm has their statistics");
        Some(Clip::Norm { limit, norm: tensor.norm() })
    }
}

/// The statistics of all gradients of a step, and the clip that follows from them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GradientSummary {
    /// Of all gradients that are clipped, after unscaling and averaging, merged in the order of registration.
    all: GradientStatistics,
    /// The joint norm of those, set by [`finish`](Self::finish).
    norm: f32,
    /// The clip that all tensors share.
    pub(crate) clip: Option<Clip>,
    /// The number of infinite and NaN elements of all gradients that have statistics.
    pub(crate) non_finite: u64,
    /// The sum of the squares of the tensors' norms, each after its own clip.
    clipped_squares: f64,
    /// Whether a tensor's own clip changed it.
    clipped_one: bool,
}

/// The joint norm before and after clipping, and whether clipping changed a gradient; `None` if unknown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClipMetrics {
    pub(crate) before: Option<f32>,
    pub(crate) after: Option<f32>,
    pub(crate) clipped: Option<bool>,
}

impl GradientSummary {
    /// Returns the summary of a step without statistics.
    pub(crate) fn before(mode: ClipMode) -> Self {
        GradientSummary { clip: mode.joint(None), ..GradientSummary::default() }
    }

    /// Adds the statistics of the next gradient that is clipped.
    pub(crate) fn add(&mut self, mode: ClipMode, tensor: &GradientStatistics) {
        self.all = self.all.merge(tensor);
        self.non_finite += tensor.non_finite;
        if let ClipMode::Norm(limit) = mode {
            let norm = tensor.norm();
            let within = norm <= limit;
            let clipped = if norm > limit { limit } else { norm };
            self.clipped_squares += f64::from(clipped) * f64::from(clipped);
            self.clipped_one |= !within;
        }
    }

    /// Computes the joint norm and the shared clip, after the last gradient has been added.
    pub(crate) fn finish(&mut self, mode: ClipMode) {
        self.norm = self.all.norm();
        self.clip = mode.joint(Some(self.norm));
    }

    /// Returns the norms of a step that has the statistics of all gradients.
    pub(crate) fn norms(&self, mode: ClipMode) -> ClipMetrics {
        let norm = self.norm;
        let (after, clipped) = match mode {
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
                // Squares of finite f32 have a finite sum in f64. A NaN in the sum hides an infinity.
                let above = self.all.max_abs > limit || self.all.sum_of_squares == f64::INFINITY;
                let unknown = !above && self.all.sum_of_squares.is_nan();
                (None, if unknown { None } else { Some(above) })
            }
        };
        ClipMetrics { before: Some(norm), after, clipped }
    }
}
