//! The optimizer of one tensor, which burn maps over a module.

use std::sync::Once;

use burn_core::tensor::{Device, Tensor};
use burn_optim::{LearningRate, LionState, Optimizer};
use lion_autotune::Profile;
use lion_kernels::LionStep;

use crate::{LionConfig, flex};

/// Lion (Chen et al., 2023) for burn: see [`LionConfig`].
#[derive(Clone, Debug)]
pub struct Lion {
    beta_1: f32,
    beta_2: f32,
    weight_decay: f32,
    profile: Profile,
}

/// Tells that burn's own operations make the steps.
static FALLBACK: Once = Once::new();

impl Lion {
    pub(crate) fn new(config: &LionConfig) -> Self {
        let LionConfig { beta_1, beta_2, weight_decay, .. } = *config;
        Lion { beta_1, beta_2, weight_decay, profile: Profile::load() }
    }

    /// A step's constants, where they are in range.
    fn constants(&self, lr: LearningRate) -> Result<LionStep, lion_kernels::Error> {
        let step = LionStep::new(lr as f32, self.beta_1, self.beta_2)?;
        // burn's 0 is no decay.
        if self.weight_decay == 0.0 { Ok(step) } else { step.weight_decay(self.weight_decay) }
    }

    /// burn's own, with the same hyperparameters.
    fn stock(&self) -> burn_optim::Lion {
        burn_optim::LionConfig::new()
            .with_beta_1(self.beta_1)
            .with_beta_2(self.beta_2)
            .with_weight_decay(self.weight_decay)
            .build()
    }
}

impl Optimizer for Lion {
    type State<const D: usize> = LionState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<LionState<D>>,
    ) -> (Tensor<D>, Option<LionState<D>>) {
        let shape = tensor.dims();
        if grad.dims() != shape {
            let found = grad.dims();
            log::error!(
                "a gradient has the shape {found:?}, and its parameter {shape:?}: the parameter is not moved"
            );
            return (tensor, state);
        }
        let momentum = state.map(|state| state.momentum).filter(|momentum| {
            let fits = momentum.dims() == shape;
            if !fits {
                let found = momentum.dims();
                log::error!(
                    "a momentum has the shape {found:?}, and its parameter {shape:?}: it begins at zero"
                );
            }
            fits
        });
        let why = match self.constants(lr) {
            Err(error) => error.to_string(),
            Ok(step) => {
                if let Some(why) = flex::refuses(&tensor, &grad, momentum.as_ref()) {
                    why
                } else {
                    let (tensor, momentum) = flex::step(step, &self.profile, tensor, grad, momentum);
                    return (tensor, Some(LionState::new(momentum)));
                }
            }
        };
        FALLBACK.call_once(|| log::warn!("steps are made by burn's own operations: {why}"));
        self.stock().step(lr, tensor, grad, momentum.map(LionState::new))
    }

    fn to_device<const D: usize>(state: LionState<D>, device: &Device) -> LionState<D> {
        <burn_optim::Lion as Optimizer>::to_device(state, device)
    }
}
