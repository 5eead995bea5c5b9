use burn_core as burn;
use burn_core::config::Config;
use burn_optim::ModuleOptimizer;
use burn_optim::grad_clipping::GradientClippingConfig;

use crate::Lion;

/// The options of [`Lion`], with the methods, defaults and JSON of burn's `LionConfig`.
///
/// The learning rate is passed to each step, as for every optimizer of burn. Keras's default is 0.001.
#[derive(Config, Debug)]
pub struct LionConfig {
    /// The weight of the momentum in the step's direction, in (0, 1].
    #[config(default = 0.9)]
    pub beta_1: f32,
    /// The decay rate of the momentum, in [0, 1].
    #[config(default = 0.99)]
    pub beta_2: f32,
    /// The fraction of a parameter that a step subtracts, in units of the learning rate, in [0, inf).
    #[config(default = 0.0)]
    pub weight_decay: f32,
    /// burn's clipping of each gradient separately. [`clip_global_norm`](crate::clip_global_norm) clips all gradients
    /// together.
    pub grad_clipping: Option<GradientClippingConfig>,
}

impl LionConfig {
    /// Returns the optimizer of single tensors, for [`ModuleOptimizer::with_group`]. As in burn, it does not clip.
    pub fn build(&self) -> Lion {
        Lion::new(self)
    }

    /// Returns the optimizer of a module.
    pub fn init(&self) -> ModuleOptimizer {
        let optimizer = ModuleOptimizer::from(self.build());
        match &self.grad_clipping {
            Some(clipping) => optimizer.with_grad_clipping(clipping.init()),
            None => optimizer,
        }
    }
}
