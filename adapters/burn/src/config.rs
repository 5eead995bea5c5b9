use burn_core as burn;
use burn_core::config::Config;
use burn_optim::ModuleOptimizer;
use burn_optim::grad_clipping::GradientClippingConfig;

use crate::Lion;

/// The options of [`Lion`]: those of burn's `LionConfig`, with the same methods, defaults and JSON.
///
/// The learning rate is given to each step, as with any optimizer of burn; Keras's default is 0.001.
#[derive(Config, Debug)]
pub struct LionConfig {
    /// What interpolates momentum and gradient for the step, in (0, 1].
    #[config(default = 0.9)]
    pub beta_1: f32,
    /// What the momentum keeps of itself, in [0, 1].
    #[config(default = 0.99)]
    pub beta_2: f32,
    /// What a step takes off a parameter, in parts of the learning rate, in [0, inf).
    #[config(default = 0.0)]
    pub weight_decay: f32,
    /// burn's clipping of each gradient by itself; [`clip_global_norm`](crate::clip_global_norm) clips all together.
    pub grad_clipping: Option<GradientClippingConfig>,
}

impl LionConfig {
    /// The optimizer of one tensor, for [`ModuleOptimizer::with_group`]; without the clipping, as in burn.
    pub fn build(&self) -> Lion {
        Lion::new(self)
    }

    /// The optimizer of a module.
    pub fn init(&self) -> ModuleOptimizer {
        let optimizer = ModuleOptimizer::from(self.build());
        match &self.grad_clipping {
            Some(clipping) => optimizer.with_grad_clipping(clipping.init()),
            None => optimizer,
        }
    }
}
