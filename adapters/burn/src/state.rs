//! The state of a parameter between steps: burn's own state, and the counters of stochastic rounding.

use burn_core::tensor::{Device, Tensor};
use burn_optim::{RecordState, StateSink, StateSource};

/// The state of a parameter. Its record is the record of burn's own Lion. If the parameter is rounded at random, two
/// numbers are added, which burn's Lion ignores.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LionState<const D: usize> {
    /// The moving average of the gradients.
    pub momentum: Tensor<D>,
    /// The counters of stochastic rounding, if the parameter is rounded at random.
    pub rounding: Option<Rounding>,
}

/// The counters that a parameter's random numbers depend on, in addition to the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// The parameter's index among those that the optimizer has rounded, from 0. In decimal, it is the variable's name
    /// in the core.
    pub parameter: u64,
    /// The number of steps of the parameter.
    pub steps: u64,
}

impl<const D: usize> LionState<D> {
    /// Creates the state of a parameter that is rounded to nearest.
    pub fn new(momentum: Tensor<D>) -> Self {
        LionState { momentum, rounding: None }
    }
}

const PARAMETER: &str = "rounding_parameter";
const STEPS: &str = "rounding_steps";

impl<const D: usize> RecordState for LionState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        burn_optim::LionState::new(self.momentum.clone()).state_flatten(prefix, out);
        if let Some(Rounding { parameter, steps }) = self.rounding {
            out.push_scalar(prefix, PARAMETER, parameter.into());
            out.push_scalar(prefix, STEPS, steps.into());
        }
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let momentum = burn_optim::LionState::state_unflatten(prefix, src, device)?.momentum;
        let mut number = |leaf| src.take_scalar(prefix, leaf)?.try_into().ok();
        let rounding = number(PARAMETER).zip(number(STEPS));
        let rounding = rounding.map(|(parameter, steps)| Rounding { parameter, steps });
        Some(LionState { momentum, rounding })
    }
}
