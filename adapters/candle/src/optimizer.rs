//! The optimizer: the core's, with candle's variables beside it.

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
    /// Why the learning rate that was last set is none.
    refused: Option<lion::Error>,
    metrics: Option<Metrics>,
}

/// A map that the optimizer follows.
struct Followed {
    map: VarMap,
    /// Its variables when it was last looked at, in its own order, which stays as long as nothing is added, removed or
    /// replaced. That they are held here keeps their addresses from being those of others.
    known: Vec<Var>,
    /// Those of the optimizer's variables that are the map's, and not added by hand.
    ids: HashSet<VariableId>,
}

impl Followed {
    /// Whether the map has the variables that it had. This runs in each step: it compares addresses alone, and looks
    /// into no tensor.
    fn is_unchanged<'a>(&self, now: impl ExactSizeIterator<Item = &'a Var>) -> bool {
        let address = |var: &Var| ptr::from_ref(&***var).addr();
        now.len() == self.known.len()
            && now.zip(&self.known).all(|(now, known)| address(now) == address(known))
    }
}

impl Lion {
    /// The options, at Keras's defaults.
    pub fn builder() -> Builder {
        lion::Lion::builder()
    }

    /// An optimizer of all variables of a map, by their names and in the order of these, also of those that the map will
    /// have at a later step, be they new or in the place of others. The names are what checkpoints, and the patterns that exclude from weight decay, know a
    /// variable by.
    ///
    /// # Errors
    /// An option outside its range; a variable that [`push`](Self::push) refuses.
    pub fn from_varmap(map: &VarMap, builder: Builder) -> Result<Self> {
        let mut lion = Self::empty(builder)?;
        lion.followed = Some(Followed { map: map.clone(), known: Vec::new(), ids: HashSet::new() });
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
        self.core.checkpoint().and_then(|checkpoint| checkpoint.write(path)).map_err(Error::wrap)
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

    /// Adds the variables that the map has got since, and takes those that it has in the place of others.
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
                // Of one that was added by hand, `push` says that the name is taken.
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

    /// Takes variables in the place of others, whose names and state they get: all of them, or none and an error.
    fn replace(&mut self, replaced: &[(usize, &Var)]) -> Result<()> {
        if replaced.is_empty() {
            return Ok(());
        }
        // The new ones may be the old ones under each other's names.
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

    /// Makes a call of the core, with the variables' elements as slices. `gradients` are in the order of the variables;
    /// those that are not there are missing.
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

    /// A step of the variables that are known.
    fn move_all(&mut self, grads: &GradStore) -> Result<Metrics> {
        let gradients = gradient::of(&self.variables, grads)?;
        self.call(&gradients, lion::Lion::apply)
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
