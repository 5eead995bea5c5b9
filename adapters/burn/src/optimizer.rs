//! The optimizer of single tensors, which burn applies to each parameter of a module.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};

use burn_core::tensor::{DType, Device, Tensor};
use burn_optim::{LearningRate, Optimizer};
use lion_autotune::Profile;
use lion_kernels::{LionStep, StochasticRounding};

use crate::{LionConfig, LionState, Rounding, flex};

/// Lion (Chen et al., 2023) for burn: see [`LionConfig`].
#[derive(Clone, Debug)]
pub struct Lion {
    beta_1: f32,
    beta_2: f32,
    weight_decay: f32,
    profile: Profile,
    stochastic: Option<Stochastic>,
}

/// Stochastic rounding: the seed, and an index for each parameter that is rounded at random.
#[derive(Clone, Debug)]
struct Stochastic {
    seed: u64,
    /// The number of indices assigned. Clones share it, because burn clones the optimizers of groups.
    given: Arc<AtomicU64>,
}

impl Stochastic {
    /// Returns the parameter's own index and step count, or the next index if it has none.
    fn rounding(&self, known: Option<Rounding>) -> Rounding {
        match known {
            Some(known) => {
                // Never assign the index of a resumed parameter again.
                self.given.fetch_max(known.parameter.saturating_add(1), Ordering::Relaxed);
                known
            }
            None => Rounding { parameter: self.given.fetch_add(1, Ordering::Relaxed), steps: 0 },
        }
    }

    fn key(&self, Rounding { parameter, steps }: Rounding) -> StochasticRounding {
        StochasticRounding::new(self.seed, &parameter.to_string(), steps)
    }
}

/// Logs once that burn's own operations make the steps.
static FALLBACK: Once = Once::new();

impl Lion {
    pub(crate) fn new(config: &LionConfig) -> Self {
        let LionConfig { beta_1, beta_2, weight_decay, .. } = *config;
        Lion { beta_1, beta_2, weight_decay, profile: Profile::load(), stochastic: None }
    }

    /// Rounds bf16 parameters at random when a step stores them, with random numbers from this seed. So they also move,
    /// on average, if a step is less than half a unit in their last place. Parameters of other dtypes are stored as
    /// before.
    ///
    /// The random numbers depend on the seed, the element, the parameter's number of steps, and its index among the
    /// bf16 parameters, in the order of their first steps. They do not depend on threads, and records store what they
    /// need. Use a different seed for each group, because each group counts indices separately.
    ///
    /// ```
    /// use burn::optim::{ModuleOptimizer, Optimizer};
    /// use burn::tensor::{Device, FloatDType, Tensor};
    /// use lion_burn::LionConfig;
    ///
    /// let optimizer = LionConfig::new().build().with_stochastic_rounding(7);
    /// let ones = || Tensor::<1>::ones([6400], &Device::flex()).cast(FloatDType::BF16);
    /// // A step of a 64th of a unit in the last place moves about one element in 64.
    /// let (moved, _) = optimizer.step(1.0 / 8192.0, ones(), ones().neg(), None);
    /// let moved = moved.not_equal(ones()).int().sum().into_scalar::<i64>();
    /// assert!((60..140).contains(&moved));
    /// // The optimizer of a module.
    /// let optimizer = ModuleOptimizer::from(optimizer);
    /// ```
    pub fn with_stochastic_rounding(self, seed: u64) -> Self {
        Lion { stochastic: Some(Stochastic { seed, given: Arc::default() }), ..self }
    }

    /// Returns the step's settings, or an error if one is out of range.
    fn constants(&self, lr: LearningRate) -> Result<LionStep, lion_kernels::Error> {
        let step = LionStep::new(lr as f32, self.beta_1, self.beta_2)?;
        // In burn, a weight decay of 0 means no decay.
        if self.weight_decay == 0.0 { Ok(step) } else { step.weight_decay(self.weight_decay) }
    }

    /// Returns burn's own Lion with the same hyperparameters.
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
        let known = state.as_ref().and_then(|state| state.rounding);
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
        // burn reads every record as f32. The momentum must have the parameter's dtype.
        let dtype = tensor.dtype();
        let momentum = momentum.map(|momentum| match momentum.dtype() == dtype {
            true => momentum,
            false => momentum.cast(dtype),
        });
        let why = match self.constants(lr) {
            Err(error) => error.to_string(),
            Ok(step) => {
                if let Some(why) = flex::refuses(&tensor, &grad, momentum.as_ref()) {
                    why
                } else {
                    let stochastic = self.stochastic.as_ref().filter(|_| tensor.dtype() == DType::BF16);
                    let drawn = stochastic.map(|stochastic| (stochastic, stochastic.rounding(known)));
                    let (step, rounding) = match drawn {
                        None => (step, known),
                        Some((stochastic, now)) => {
                            let next = Rounding { steps: now.steps.wrapping_add(1), ..now };
                            (step.stochastic_rounding(stochastic.key(now)), Some(next))
                        }
                    };
                    let (tensor, momentum) = flex::step(step, &self.profile, tensor, grad, momentum);
                    return (tensor, Some(LionState { momentum, rounding }));
                }
            }
        };
        FALLBACK.call_once(|| log::warn!("steps are made by burn's own operations, to nearest: {why}"));
        let (tensor, state) = self.stock().step(lr, tensor, grad, momentum.map(burn_optim::LionState::new));
        (tensor, state.map(|state| LionState { momentum: state.momentum, rounding: known }))
    }

    fn to_device<const D: usize>(state: LionState<D>, device: &Device) -> LionState<D> {
        LionState { momentum: state.momentum.to_device(device), ..state }
    }
}
