//! The optimizer of one tensor, which burn maps over a module.

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

/// Draws from a seed, and gives each parameter that is rounded at random a place.
#[derive(Clone, Debug)]
struct Stochastic {
    seed: u64,
    /// How many places have been given. Clones share it: burn clones the optimizers of groups.
    given: Arc<AtomicU64>,
}

impl Stochastic {
    /// A parameter's own place and steps, or else the next place.
    fn rounding(&self, known: Option<Rounding>) -> Rounding {
        match known {
            Some(known) => {
                // A resumed parameter's place is not given again.
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

/// Tells that burn's own operations make the steps.
static FALLBACK: Once = Once::new();

impl Lion {
    pub(crate) fn new(config: &LionConfig) -> Self {
        let LionConfig { beta_1, beta_2, weight_decay, .. } = *config;
        Lion { beta_1, beta_2, weight_decay, profile: Profile::load(), stochastic: None }
    }

    /// Rounds bf16 parameters at random when a step stores them, drawn from this seed, so that they move on average also
    /// where a step is less than half their last place. Parameters of other formats are stored as ever.
    ///
    /// The draws depend on the seed, the element, the steps that the parameter has made, and its place among the bf16
    /// parameters, in the order of their first steps: so not on threads, and records keep what they need. Groups, each
    /// of which counts places by itself, take different seeds.
    ///
    /// ```
    /// use burn::optim::{ModuleOptimizer, Optimizer};
    /// use burn::tensor::{Device, FloatDType, Tensor};
    /// use lion_burn::LionConfig;
    ///
    /// let optimizer = LionConfig::new().build().with_stochastic_rounding(7);
    /// let ones = || Tensor::<1>::ones([6400], &Device::flex()).cast(FloatDType::BF16);
    /// // A step of a 64th of the last place moves about one element in 64.
    /// let (moved, _) = optimizer.step(1.0 / 8192.0, ones(), ones().neg(), None);
    /// let moved = moved.not_equal(ones()).int().sum().into_scalar::<i64>();
    /// assert!((60..140).contains(&moved));
    /// // That of a module.
    /// let optimizer = ModuleOptimizer::from(optimizer);
    /// ```
    pub fn with_stochastic_rounding(self, seed: u64) -> Self {
        Lion { stochastic: Some(Stochastic { seed, given: Arc::default() }), ..self }
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
        // burn reads every record as f32. The momentum has the parameter's format.
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
