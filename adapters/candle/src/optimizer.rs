//! The optimizer: the core's, with candle's variables beside it.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{Error, Result, Tensor, TensorId, Var, bail};
use candle_nn::{Optimizer, VarMap};
use lion::state::Checkpoint;
use lion::{Builder, Metrics, Update, VariableId, VariableOptions};

use crate::loan::Loan;
use crate::tensor;

/// The Lion optimizer over candle's variables.
pub struct Lion {
    core: lion::Lion,
    /// In the order of registration.
    variables: Vec<(VariableId, Var)>,
    tensors: HashSet<TensorId>,
    followed: Option<Followed>,
    /// Why the learning rate that was last set is none.
    refused: Option<lion::Error>,
    metrics: Option<Metrics>,
}

/// A map that the optimizer follows.
struct Followed {
    map: VarMap,
    /// How many of its variables have been looked at.
    known: usize,
}

impl Lion {
    /// The options, at Keras's defaults.
    pub fn builder() -> Builder {
        lion::Lion::builder()
    }

    /// An optimizer of all variables of a map, by their names and in the order of these, also of those that the map will
    /// have at a later step. The names are what checkpoints, and the patterns that exclude from weight decay, know a
    /// variable by.
    ///
    /// # Errors
    /// An option outside its range; a variable that [`push`](Self::push) refuses.
    pub fn from_varmap(map: &VarMap, builder: Builder) -> Result<Self> {
        let mut lion = Self::empty(builder)?;
        lion.followed = Some(Followed { map: map.clone(), known: 0 });
        lion.follow()?;
        Ok(lion)
    }

    /// Adds a variable with nothing special about it. Its state is zero, also where steps have been made before. One of
    /// integers is not added, and `None`.
    ///
    /// # Errors
    /// A name or a variable that is there already, a format other than f32, f16 and bf16, a device other than the CPU,
    /// memory that cannot be had.
    pub fn push(&mut self, name: &str, var: &Var) -> Result<Option<VariableId>> {
        self.push_with(name, var, VariableOptions::default())
    }

    /// Adds a variable with options: a group, a constraint, a momentum of another format.
    ///
    /// # Errors
    /// As [`push`](Self::push), and what [`lion::Lion::register_with`] refuses.
    pub fn push_with(
        &mut self,
        name: &str,
        var: &Var,
        options: VariableOptions,
    ) -> Result<Option<VariableId>> {
        let Some(dtype) = tensor::trained(name, var)? else {
            log::warn!("variable {name:?} is {:?} and is not trained", var.dtype());
            return Ok(None);
        };
        if self.tensors.contains(&var.id()) {
            bail!("variable {name:?}: it shares its storage with another variable of the optimizer");
        }
        let id = self.core.register_with(name, var.dims(), dtype, options).map_err(Error::wrap)?;
        self.tensors.insert(var.id());
        self.variables.push((id, var.clone()));
        Ok(Some(id))
    }

    /// The optimizer below: hyperparameters, groups, the state of each variable.
    pub fn core(&self) -> &lion::Lion {
        &self.core
    }

    /// The optimizer below, to be changed. A variable that is registered there, and not here, is in no step.
    pub fn core_mut(&mut self) -> &mut lion::Lion {
        &mut self.core
    }

    /// What the last step did; `None` before the first.
    pub fn metrics(&self) -> Option<&Metrics> {
        self.metrics.as_ref()
    }

    /// The loss to differentiate: the loss times the static or dynamic scale of the next step.
    ///
    /// # Errors
    /// candle's, of the multiplication.
    pub fn scale_loss(&self, loss: &Tensor) -> Result<Tensor> {
        loss.affine(self.core.scale_loss(1.0).into(), 0.0)
    }

    /// Makes each variable its moving average, as at the end of training. Without an average nothing happens.
    ///
    /// # Errors
    /// As [`step`](Optimizer::step).
    pub fn finalize_variable_values(&mut self) -> Result<()> {
        self.follow()?;
        self.call(&[], lion::Lion::finalize_variable_values)
    }

    /// Writes the optimizer's state to a checkpoint file; the variables themselves are the map's to save.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.core.checkpoint().write(path).map_err(Error::wrap)
    }

    /// Goes on from a checkpoint file of the same variables, as if never stopped.
    ///
    /// # Errors
    /// A file that cannot be read or is no checkpoint, and one of other variables, shapes or formats. Nothing has been
    /// changed then.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.follow()?;
        let checkpoint = Checkpoint::read(path).map_err(Error::wrap)?;
        self.core.restore(&checkpoint).map_err(Error::wrap)
    }

    /// Adds the variables that the map has got since.
    fn follow(&mut self) -> Result<()> {
        let Some(Followed { map, known }) = &self.followed else { return Ok(()) };
        let mut found: Vec<(String, Var)> = {
            let Ok(data) = map.data().lock() else { bail!("a thread panicked while it had the VarMap") };
            if data.len() == *known {
                return Ok(());
            }
            data.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
        };
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let known = found.len();
        for (name, var) in found {
            let id = self.core.variable(&name);
            if !self.variables.iter().any(|(own, known)| Some(*own) == id && known.id() == var.id()) {
                self.push(&name, &var)?;
            }
        }
        if let Some(followed) = &mut self.followed {
            followed.known = known;
        }
        Ok(())
    }

    /// Makes a call of the core, with the variables' elements as slices. `gradients` are in the order of the variables;
    /// those that are not there are missing.
    fn call<T>(
        &mut self,
        gradients: &[Option<Tensor>],
        work: impl FnOnce(&mut lion::Lion, &mut [Update<'_>]) -> std::result::Result<T, lion::Error>,
    ) -> Result<T> {
        let name = |id| self.core.name(id).unwrap_or_default();
        let mut loans = self.variables.iter().map(|(_, var)| Loan::take(var)).collect::<Result<Vec<_>>>()?;
        let locks: Vec<_> =
            gradients.iter().map(|gradient| gradient.as_ref().map(Tensor::storage_and_layout)).collect();
        let mut updates = Vec::with_capacity(loans.len());
        for (index, ((id, _), loan)) in self.variables.iter().zip(&mut loans).enumerate() {
            let parameter = loan.slice(name(*id))?;
            updates.push(match locks.get(index).and_then(Option::as_ref) {
                Some((storage, layout)) => {
                    Update::new(*id, parameter, tensor::slice(name(*id), storage, layout)?)
                }
                None => Update::without_gradient(*id, parameter),
            });
        }
        work(&mut self.core, &mut updates).map_err(Error::wrap)
    }
}

impl Optimizer for Lion {
    type Config = Builder;

    /// An optimizer of these variables, whose names are their places, from "0". [`Lion::from_varmap`] has names that
    /// last: a map gives its variables in another order each time.
    fn new(vars: Vec<Var>, config: Builder) -> Result<Self> {
        let mut lion = Lion {
            core: config.build().map_err(Error::wrap)?,
            variables: Vec::new(),
            tensors: HashSet::new(),
            followed: None,
            refused: None,
            metrics: None,
        };
        for (index, var) in vars.iter().enumerate() {
            lion.push(&index.to_string(), var)?;
        }
        Ok(lion)
    }

    /// Moves the variables against their gradients.
    fn step(&mut self, grads: &GradStore) -> Result<()> {
        if let Some(error) = &self.refused {
            bail!("{error}");
        }
        self.follow()?;
        let gradient = |(id, var): &(VariableId, Var)| {
            let name = self.core.name(*id).unwrap_or_default();
            grads.get(var).map(|found| tensor::gradient(name, var, found)).transpose()
        };
        let gradients = self.variables.iter().map(gradient).collect::<Result<Vec<_>>>()?;
        self.metrics = Some(self.call(&gradients, lion::Lion::apply)?);
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.core.learning_rate().into()
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.refused = self.core.set_learning_rate(lr).err();
    }
}

impl fmt::Debug for Lion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lion").field("core", &self.core).finish_non_exhaustive()
    }
}
