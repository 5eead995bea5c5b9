//! The optimizer: hyperparameters, the variables with their state, and the call that moves them.

use lion_kernels::{Backend, Dtype, Slice, Step, Tensors};

use crate::Error;
use crate::variable::{Update, Variable, VariableId};

/// The Lion optimizer (Chen et al., 2023) over named variables, as `keras.optimizers.Lion` computes it.
///
/// ```
/// use lion::{Dtype, Lion, Update};
///
/// let mut optimizer = Lion::builder().learning_rate(0.01).weight_decay(0.1).build()?;
/// let kernel = optimizer.register("dense.kernel", &[2, 3], Dtype::F32)?;
///
/// let mut parameter = vec![1.0_f32; 6];
/// let gradient = vec![0.5_f32; 6];
/// optimizer.apply(&mut [Update::new(kernel, &mut parameter, &gradient)])?;
/// assert_eq!(parameter, [0.989; 6]);
/// # Ok::<(), lion::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lion {
    step: Step,
    backend: Backend,
    variables: Vec<Variable>,
    iterations: u64,
}

/// The hyperparameters of a [`Lion`] to be, with Keras's defaults.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Builder {
    learning_rate: f32,
    beta_1: f32,
    beta_2: f32,
    weight_decay: Option<f32>,
    backend: Option<Backend>,
}

impl Builder {
    /// How far a call moves each element; not negative. 0.001 unless set.
    pub fn learning_rate(self, learning_rate: f32) -> Self {
        Builder { learning_rate, ..self }
    }

    /// The share of the old momentum in the direction of a step, in (0, 1]. 0.9 unless set.
    pub fn beta_1(self, beta_1: f32) -> Self {
        Builder { beta_1, ..self }
    }

    /// The share of the old momentum in the new one, in [0, 1]. 0.99 unless set.
    pub fn beta_2(self, beta_2: f32) -> Self {
        Builder { beta_2, ..self }
    }

    /// Decoupled weight decay, not negative: a call takes `learning_rate * weight_decay` of each element. None
    /// unless set.
    pub fn weight_decay(self, weight_decay: f32) -> Self {
        Builder { weight_decay: Some(weight_decay), ..self }
    }

    /// The instruction set; without this it is what `LION_ISA` names, or else the machine's fastest. The result is
    /// the same, bit for bit.
    pub fn backend(self, backend: Backend) -> Self {
        Builder { backend: Some(backend), ..self }
    }

    /// The optimizer.
    ///
    /// # Errors
    /// A hyperparameter outside its range; a backend, here or in `LION_ISA`, that this machine lacks.
    pub fn build(self) -> Result<Lion, Error> {
        let mut step = Step::new(self.learning_rate, self.beta_1, self.beta_2)?;
        if let Some(weight_decay) = self.weight_decay {
            step = step.weight_decay(weight_decay)?;
        }
        let backend = match self.backend {
            Some(backend) => backend.required()?,
            None => Backend::from_env()?,
        };
        Ok(Lion { step, backend, variables: Vec::new(), iterations: 0 })
    }
}

impl Lion {
    /// The hyperparameters, at Keras's defaults.
    pub fn builder() -> Builder {
        Builder { learning_rate: 1e-3, beta_1: 0.9, beta_2: 0.99, weight_decay: None, backend: None }
    }

    /// Adds a variable, with a momentum of zeros in the parameter's format.
    ///
    /// # Errors
    /// A name that is taken, a shape too large, or memory that cannot be had.
    pub fn register(&mut self, name: &str, shape: &[usize], dtype: Dtype) -> Result<VariableId, Error> {
        if self.variables.iter().any(|variable| variable.name == name) {
            return Err(Error::DuplicateName { name: name.into() });
        }
        self.variables.push(Variable::new(name, shape, dtype)?);
        Ok(VariableId(self.variables.len() - 1))
    }

    /// One optimizer step on the variables of the call, each at most once; the others stay as they are. A call
    /// without any does nothing.
    ///
    /// # Errors
    /// A tensor that does not fit its variable. Nothing has been written then.
    pub fn apply(&mut self, updates: &mut [Update<'_>]) -> Result<(), Error> {
        if updates.is_empty() {
            return Ok(());
        }
        self.check(updates)?;
        for update in updates {
            let Some(variable) = self.variables.get_mut(update.variable.0) else { continue };
            let momentum = variable.momentum.as_slice_mut();
            let tensors = Tensors::in_place(update.parameter.reborrow(), update.gradient, momentum);
            self.step
                .apply(self.backend, tensors)
                .map_err(|source| Error::Tensor { name: variable.name.clone(), source })?;
        }
        self.iterations += 1;
        Ok(())
    }

    fn check(&self, updates: &[Update<'_>]) -> Result<(), Error> {
        for (place, update) in updates.iter().enumerate() {
            let index = update.variable.0;
            let Some(variable) = self.variables.get(index) else {
                return Err(Error::UnknownVariable { index, registered: self.variables.len() });
            };
            variable.check(update)?;
            if updates.iter().take(place).any(|earlier| earlier.variable == update.variable) {
                return Err(Error::RepeatedVariable { name: variable.name.clone() });
            }
        }
        Ok(())
    }

    /// The number of calls of [`apply`](Lion::apply) so far.
    pub fn iterations(&self) -> u64 {
        self.iterations
    }

    /// The instruction set that the calls use.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The variable's momentum.
    pub fn momentum(&self, variable: VariableId) -> Option<Slice<'_>> {
        self.variables.get(variable.0).map(|variable| variable.momentum.as_slice())
    }

    /// The variable's name.
    pub fn name(&self, variable: VariableId) -> Option<&str> {
        self.variables.get(variable.0).map(|variable| variable.name.as_str())
    }

    /// The variable's shape.
    pub fn shape(&self, variable: VariableId) -> Option<&[usize]> {
        self.variables.get(variable.0).map(|variable| variable.shape.as_slice())
    }
}
