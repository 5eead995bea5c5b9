//! Which clip is on, what it needs to know, and what it does to the norm.

use lion_kernels::{Clip, GradientStatistics};

use crate::Config;

/// The clip that is on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Clipping {
    Off,
    /// Each tensor by its own norm.
    Norm(f32),
    /// All tensors by their joint norm. A double, because Keras divides before it rounds.
    Global(f64),
    /// Each element.
    Value(f32),
}

impl Clipping {
    /// A valid config has at most one.
    pub(crate) fn new(config: &Config) -> Self {
        match (config.clipnorm, config.global_clipnorm, config.clipvalue) {
            (Some(limit), _, _) => Clipping::Norm(limit as f32),
            (_, Some(limit), _) => Clipping::Global(limit),
            (_, _, Some(limit)) => Clipping::Value(limit as f32),
            (None, None, None) => Clipping::Off,
        }
    }

    /// The clip that all tensors of a call have in common, as far as it is known; `norm` is their joint norm. It is used
    /// whether it exceeds the limit or not: Keras's arithmetic rounds in either case.
    fn joint(self, norm: Option<f32>) -> Option<Clip> {
        match self {
            Clipping::Off | Clipping::Norm(_) => None,
            Clipping::Global(limit) => norm.map(|norm| Clip::global_norm(limit, norm)),
            Clipping::Value(limit) => Some(Clip::Value(limit)),
        }
    }

    /// The clip of a tensor of its own, where it has one; the statistics are the tensor's.
    pub(crate) fn own(self, tensor: Option<&GradientStatistics>) -> Option<Clip> {
        let Clipping::Norm(limit) = self else { return None };
        let tensor = tensor.expect("a call that clips each tensor by its norm has measured them");
        Some(Clip::Norm { limit, norm: tensor.norm() })
    }
}

/// What a call finds out about its gradients.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
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
pub(crate) struct Norms {
    pub(crate) before: Option<f32>,
    pub(crate) after: Option<f32>,
    pub(crate) clipped: Option<bool>,
}

impl Found {
    /// Of a call that has not looked at its gradients.
    pub(crate) fn before(clipping: Clipping) -> Self {
        Found { clip: clipping.joint(None), ..Found::default() }
    }

    /// Adds the next gradient that takes part in clipping.
    pub(crate) fn add(&mut self, clipping: Clipping, tensor: &GradientStatistics) {
        self.all = self.all.merge(tensor);
        self.non_finite += tensor.non_finite;
        if let Clipping::Norm(limit) = clipping {
            let norm = tensor.norm();
            let within = norm <= limit;
            let clipped = if norm > limit { limit } else { norm };
            self.clipped_squares += f64::from(clipped) * f64::from(clipped);
            self.clipped_one |= !within;
        }
    }

    /// When all have been added.
    pub(crate) fn finish(&mut self, clipping: Clipping) {
        self.norm = self.all.norm();
        self.clip = clipping.joint(Some(self.norm));
    }

    /// For a call whose gradients were all measured.
    pub(crate) fn norms(&self, clipping: Clipping) -> Norms {
        let norm = self.norm;
        let (after, clipped) = match clipping {
            Clipping::Off => (Some(norm), Some(false)),
            Clipping::Norm(_) => (Some((self.clipped_squares as f32).sqrt()), Some(self.clipped_one)),
            Clipping::Global(limit) => {
                let within = f64::from(norm) <= limit;
                let after = match self.clip {
                    Some(Clip::Factor(factor)) => Some(norm * factor),
                    _ => None,
                };
                (after, Some(!within))
            }
            Clipping::Value(limit) => {
                // The squares of finite elements have a finite sum; beside a NaN an infinity is not seen.
                let above = self.all.max_abs > limit || self.all.sum_of_squares == f64::INFINITY;
                let unknown = !above && self.all.sum_of_squares.is_nan();
                (None, if unknown { None } else { Some(above) })
            }
        };
        Norms { before: Some(norm), after, clipped }
    }
}
