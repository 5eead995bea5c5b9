//! Static and dynamic loss scaling.

use crate::Config;

/// Keras's `loss_scale_factor`, or the state of its `LossScaleOptimizer`, which disables that factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LossScale {
    Off,
    Static(f32),
    Dynamic {
        scale: f32,
        /// Finite steps since the scale last changed.
        counter: u64,
        /// The number of finite steps after which it doubles; 0 means never.
        growth: u64,
    },
}

impl LossScale {
    pub(crate) fn new(config: &Config) -> Self {
        match (&config.dynamic_loss_scale, config.loss_scale_factor) {
            (Some(dynamic), _) => LossScale::Dynamic {
                scale: dynamic.initial_scale as f32,
                counter: 0,
                growth: dynamic.dynamic_growth_steps,
            },
            (None, Some(factor)) => LossScale::Static(factor as f32),
            (None, None) => LossScale::Off,
        }
    }

    pub(crate) fn factor(&self) -> Option<f32> {
        match self {
            LossScale::Off => None,
            LossScale::Static(scale) | LossScale::Dynamic { scale, .. } => Some(*scale),
        }
    }

    pub(crate) fn is_dynamic(&self) -> bool {
        matches!(self, LossScale::Dynamic { .. })
    }

    /// Counts a step with finite gradients. The scale has no upper bound, as in Keras: it can become infinite.
    pub(crate) fn succeeded(&mut self) {
        if let LossScale::Dynamic { scale, counter, growth } = self {
            if counter.checked_add(1) == Some(*growth) {
                *counter = 0;
                *scale *= 2.0;
            } else {
                *counter = counter.saturating_add(1);
            }
        }
    }

    /// Halves the scale after a step with a non-finite gradient. It has no lower bound, as in Keras: it can become zero.
    pub(crate) fn overflowed(&mut self) {
        if let LossScale::Dynamic { scale, counter, .. } = self {
            *counter = 0;
            *scale /= 2.0;
        }
    }
}
