//! The optimizer: the core's optimizer, with candle's variables.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::ptr;

use candle_core::backprop::GradStore;
use candle_core::{Error, Result, Tensor, TensorId, Var, bail};
use candle_nn::{Optimizer, VarMap};
use lion::checkpoint::Checkpoint;
use lion::{Builder, Metrics, Update, VariableId, VariableOptions};

use crate::gradient::{self, Gradient};
use crate::loan::Loan;
use crate::threads::{each, together, try_each};
use crate::variable::{Variable, trained};

/// The Lion optimizer over candle's variables.
pub struct Lion {
    pub(crate) core: lion::Lion,
    /// In the order of registration.
    pub(crate) variables: Vec<Variable>,
    tensors: HashSet<TensorId>,
    followed: Option<Followed>,
    /// The error of the last learning rate, if it was out of range.
    refused: Option<lion::Error>,
    metrics: Option<Metrics>,
}

/// A map that the optimizer follows.
struct Followed {
    map: VarMap,
    /// The map's variables at the last check, in the map's own order. The order does not change until a variable is
    /// added, removed or replaced. Holding them here ensures that no other variable reuses their addresses.
    known: Vec<Var>,
    /// The ids of the variables that come from the map, not from `push`.
    ids: HashSet<VariableId>,
}

impl Followed {
    /// Returns whether the map still has the same variables. This runs in each step, so it only compares addresses and
    /// reads no tensor.
    fn is_unchanged<'a>(&self, now: impl ExactSizeIterator<Item = &'a Var>) -> bool {
        let address = |var: &Var| ptr::from_ref(&***var).addr();
        now.len() == self.known.len()
            && now.zip(&self.known).all(|(now, known)| address(now) == address(known))
    }
}

impl Lion {
    /// Returns a builder with Keras's defaults.
    pub fn builder() -> Builder {
        lion::Lion::builder()
    }

    /// Creates an optimizer of all variables of a map, under their names and in the order of the names. It also
    /// includes variables that are later added to the map or replaced in it. Checkpoints, and the patterns that exclude
    /// from weight decay, identify a variable by its name.
    ///
    /// # Errors
    /// An option outside its range, or a variable that [`push`](Self::push) rejects.
    pub fn from_varmap(map: &VarMap, builder: Builder) -> Result<Self> {
        let mut lion = Self::empty(builder)?;
        lion.followed = Some(Followed { map: map.clone(), known: Vec::new(), ids: HashSet::new() });
        lion.follow()?;
        Ok(lion)
    }

    /// Adds a variable with default options. Its state is zero, also after earlier steps. A variable of integers is not
    /// added, and the result is `None`.
    ///
    /// # Errors
    /// A name or a variable that the optimizer already has, a dtype other than f32, f16 and bf16, a device other than
    /// the CPU, or a failed allocation.
    pub fn push(&mut self, name: &str, var: &Var) -> Result<Option<VariableId>> {
        self.push_with(name, var, VariableOptions::default())
    }

    /// Adds a variable with options: a group, a constraint, a momentum of another dtype.
    ///
    /// # Errors
    /// As [`push`](Self::push), and the errors of [`lion::Lion::register_with`].
    pub fn push_with(
        &mut self,
        name: &str,
        var: &Var,
        options: VariableOptions,
    ) -> Result<Option<VariableId>> {
        let Some(dtype) = trained(name, var)? else {
            log::warn!("variable {name:?} is {:?} and is not trained", var.dtype());
            return Ok(None);
        };
        if self.tensors.contains(&var.id()) {
            bail!("variable {name:?}: it shares its storage with another variable of the optimizer");
        }
        let id = self.core.register_with(name, var.dims(), dtype, options).map_err(Error::wrap)?;
        self.tensors.insert(var.id());
        self.variables.push(Variable::new(id, name, var)?);
        Ok(Some(id))
    }

    /// Returns the core's optimizer: hyperparameters, groups, the state of each variable.
    pub fn core(&self) -> &lion::Lion {
        &self.core
    }

    /// Returns the core's optimizer, to change it. Steps ignore a variable that is only registered there.
    pub fn core_mut(&mut self) -> &mut lion::Lion {
        &mut self.core
    }

    /// Returns the metrics of the last step; `None` before the first.
    pub fn metrics(&self) -> Option<&Metrics> {
        self.metrics.as_ref()
    }

    /// Multiplies the loss by the static or dynamic loss scale of the next step. Differentiate the result.
    ///
    /// # Errors
    /// An error of candle's multiplication.
    pub fn scale_loss(&self, loss: &Tensor) -> Result<Tensor> {
        loss.affine(self.core.scale_loss(1.0).into(), 0.0)
    }

    /// Sets each variable to its moving average, as at the end of training. Does nothing without a moving average.
    ///
    /// # Errors
    /// As [`step`](Optimizer::step).
    pub fn finalize_variable_values(&mut self) -> Result<()> {
        self.follow()?;
        self.call(&[], lion::Lion::finalize_variable_values)
    }

    /// Writes the optimizer's state to a checkpoint file. The variables are not included; save them with the map.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.core.checkpoint().and_then(|checkpoint| checkpoint.write(path)).map_err(Error::wrap)
    }

    /// Restores the state from a checkpoint file of the same variables. Training continues as if it had never stopped.
    ///
    /// # Errors
    /// A file that cannot be read or is not a checkpoint, or a checkpoint of other variables, shapes or dtypes. On an
    /// error nothing has changed.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.follow()?;
        let checkpoint = Checkpoint::read(path).map_err(Error::wrap)?;
        self.core.restore(&checkpoint).map_err(Error::wrap)
    }

    /// Adds the map's new variables, and takes over those that have replaced others.
    fn follow(&mut self) -> Result<()> {
        let Some(followed) = &self.followed else { return Ok(()) };
        let found: Vec<(String, Var)> = {
            let Ok(data) = followed.map.data().lock() else {
                bail!("a thread panicked while it had the VarMap")
            };
            if followed.is_unchanged(data.values()) {
                return Ok(());
            }
            data.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
        };
        let known = found.iter().map(|(_, var)| var.clone()).collect();
        let mut sorted: Vec<&(String, Var)> = found.iter().collect();
        sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
        let places: HashMap<_, _> = self.variables.iter().map(|it| it.id).zip(0..).collect();
        let (mut replaced, mut added) = (Vec::new(), Vec::new());
        for (name, var) in sorted {
            let place = self.core.variable(name).and_then(|id| places.get(&id).copied());
            match place.and_then(|place| Some((place, self.variables.get(place)?))) {
                Some((_, known)) if known.tensor == var.id() => {}
                Some((place, known)) if followed.ids.contains(&known.id) => replaced.push((place, var)),
                // If the name was added by hand, `push` returns the error.
                _ => added.push((name, var)),
            }
        }
        self.replace(&replaced)?;
        for (name, var) in added {
            let id = self.push(name, var)?;
            if let Some(followed) = &mut self.followed {
                followed.ids.extend(id);
            }
        }
        if let Some(followed) = &mut self.followed {
            followed.known = known;
        }
        Ok(())
    }

    /// Replaces variables by others, which inherit the names and states. On an error, none is replaced.
    fn replace(&mut self, replaced: &[(usize, &Var)]) -> Result<()> {
        if replaced.is_empty() {
            return Ok(());
        }
        // Variables may have swapped their names.
        let mut tensors = self.tensors.clone();
        for known in replaced.iter().filter_map(|(place, _)| self.variables.get(*place)) {
            tensors.remove(&known.tensor);
        }
        let mut variables = Vec::with_capacity(replaced.len());
        for &(place, var) in replaced {
            let Some(known) = self.variables.get(place) else { continue };
            let Variable { id, name, shape, storage, .. } = known;
            if (var.dtype(), var.shape()) != (storage.dtype(), shape) {
                bail!(
                    "variable {name:?}: the VarMap has another in its place, which is {:?} {:?}; expected {:?} {:?}, \
                     as this optimizer has it",
                    var.dtype(),
                    var.dims(),
                    storage.dtype(),
                    shape.dims()
                );
            }
            trained(name, var)?;
            if !tensors.insert(var.id()) {
                bail!("variable {name:?}: it shares its storage with another variable of the optimizer");
            }
            variables.push((place, Variable::new(*id, name, var)?));
        }
        for (place, variable) in variables {
            if let Some(known) = self.variables.get_mut(place) {
                *known = variable;
            }
        }
        self.tensors = tensors;
        Ok(())
    }

    /// Calls the core, with the variables' elements as slices. `gradients` are in the order of the variables. Entries
    /// beyond the end count as missing.
    fn call<T>(
        &mut self,
        gradients: &[Option<Gradient<'_>>],
        work: impl FnOnce(&mut lion::Lion, &mut [Update<'_>]) -> std::result::Result<T, lion::Error>,
    ) -> Result<T> {
        let variables = &self.variables[..];
        let fetch = |place: usize| variables.get(place).into_iter().for_each(Variable::fetch_storage);
        let mut loans = try_each(variables, fetch, Loan::take)?;
        let locks = gradient::lock(gradients);
        let mut updates = Vec::with_capacity(loans.len());
        for (index, (variable, loan)) in variables.iter().zip(&mut loans).enumerate() {
            let parameter = loan.slice()?;
            let gradient = gradients.get(index).and_then(Option::as_ref);
            updates.push(match gradient.zip(locks.get(index).and_then(Option::as_ref)) {
                Some((gradient, storage)) => {
                    Update::new(variable.id, parameter, gradient.slice(variable, storage)?)
                }
                None => Update::without_gradient(variable.id, parameter),
            });
        }
        let result = work(&mut self.core, &mut updates).map_err(Error::wrap);
        drop(updates);
        gradient::unlock(locks);
        each(loans, fetch, drop);
        result
    }

    /// Makes a step of the known variables.
    fn move_all(&mut self, grads: &GradStore) -> Result<Metrics> {
        let gradients = gradient::of(&self.variables, grads)?;
        self.call(&gradients, lion::Lion::apply)
    }
}

impl Optimizer for Lion {
    type Config = Builder;

    /// Creates an optimizer of these variables. Their names are their indices, from "0". Use [`Lion::from_varmap`] for
    /// stable names, because a map returns its variables in a different order each time.
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

    /// Updates the variables with their gradients.
    fn step(&mut self, grads: &GradStore) -> Result<()> {
        if let Some(error) = &self.refused {
            bail!("{error}");
        }
        self.follow()?;
        self.metrics = Some(together(self.variables.len(), || self.move_all(grads))?);
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
