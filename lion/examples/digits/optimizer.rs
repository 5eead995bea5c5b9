//! The step in two implementations: the library's, which is timed, and the scalar reference's.

use std::time::{Duration, Instant};

use lion::{Error, Lion, Update, VariableId};
use lion_kernels::reference::Settings;

use crate::network::{Tensors, VARIABLES, zeros};
use crate::storage::Storage;

/// Large enough for bf16, whose rounding drops a step of less than half the distance between neighbours: that is
/// 2^-10, a little less than this, for weights from a quarter to a half. At half this rate bf16 ends below 95 %.
pub(crate) const LEARNING_RATE: f32 = 0.001;
pub(crate) const WEIGHT_DECAY: f32 = 2.0;

/// An implementation of the step.
pub(crate) trait Optimizer<T> {
    fn step(&mut self, parameters: &mut Tensors<T>, gradients: &Tensors<T>) -> Result<(), Error>;
}

/// The library's optimizer.
pub(crate) struct Library {
    lion: Lion,
    variables: Vec<VariableId>,
    times: Vec<Duration>,
}

impl Library {
    /// Creates the optimizer with the instruction set of `LION_ISA`, or the machine's fastest.
    pub(crate) fn new<T: Storage>() -> Result<Self, Error> {
        let mut lion = Lion::builder().learning_rate(LEARNING_RATE).weight_decay(WEIGHT_DECAY).build()?;
        let variables = VARIABLES
            .iter()
            .map(|(name, shape)| lion.register(name, shape, T::DTYPE))
            .collect::<Result<_, _>>()?;
        Ok(Library { lion, variables, times: Vec::new() })
    }

    /// Returns the median time of a step; a mean would include the time of other processes.
    pub(crate) fn step_time(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    pub(crate) fn steps(&self) -> u64 {
        self.lion.iterations()
    }
}

impl<T: Storage> Optimizer<T> for Library {
    fn step(&mut self, parameters: &mut Tensors<T>, gradients: &Tensors<T>) -> Result<(), Error> {
        let tensors = parameters.iter_mut().zip(gradients);
        let mut updates: Vec<_> = self
            .variables
            .iter()
            .zip(tensors)
            .map(|(&variable, (parameter, gradient))| Update::new(variable, parameter, gradient))
            .collect();
        let start = Instant::now();
        self.lion.apply(&mut updates)?;
        self.times.push(start.elapsed());
        Ok(())
    }
}

/// The specification as a plain loop, which shares no code with the library.
pub(crate) struct Reference<T> {
    pass: Settings,
    momentum: Tensors<T>,
}

impl<T: Storage> Reference<T> {
    pub(crate) fn new() -> Self {
        // The betas are the library's defaults.
        let pass = Settings {
            learning_rate: LEARNING_RATE,
            beta_1: 0.9,
            beta_2: 0.99,
            weight_decay: Some(WEIGHT_DECAY),
            ..Settings::default()
        };
        Reference { pass, momentum: zeros() }
    }
}

impl<T: Storage> Optimizer<T> for Reference<T> {
    fn step(&mut self, parameters: &mut Tensors<T>, gradients: &Tensors<T>) -> Result<(), Error> {
        for ((parameter, gradient), momentum) in parameters.iter_mut().zip(gradients).zip(&mut self.momentum)
        {
            self.pass.step(parameter, gradient, momentum, None, None, None::<&mut [f32]>);
        }
        Ok(())
    }
}
