//! Accessors and setters of the optimizer.

use lion_autotune::Profile;
use lion_kernels::{Backend, Dtype, Task, TensorMut, TensorRef, with_ieee_state};

use super::{Lion, backend_of};
use crate::group::StepHyperparameters;
use crate::loss_scale::LossScale;
use crate::variable::{Store, Variable, VariableStateMut, VariableView, joined};
use crate::{Config, Error, Group, GroupId, Hyperparameter, VariableId, check, sign_agreement, stalled};

impl Lion {
    /// Returns the options, with the hyperparameters as last set.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the number of steps so far, without those that a dynamic loss scale skipped. It is the step that schedules
    /// see next. (Keras's public `iterations` is this divided by `gradient_accumulation_steps`.)
    pub fn iterations(&self) -> u64 {
        self.iterations
    }

    /// Sets the number of steps so far, to restore a state.
    pub fn set_iterations(&mut self, iterations: u64) {
        self.iterations = iterations;
    }

    /// Returns the instruction set of steps, unless the profile has a faster one for a pass.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Returns the profile, which plans how steps split their work.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Sets the profile, from the next step on. The result is the same, bit for bit.
    ///
    /// # Errors
    /// An instruction set that this machine does not have. The profile is unchanged then.
    pub fn set_profile(&mut self, profile: Profile) -> Result<(), Error> {
        self.backend = backend_of(&profile)?;
        self.profile = profile;
        Ok(())
    }

    /// Returns the learning rate of the next step, without the multiplier of a group.
    pub fn learning_rate(&self) -> f32 {
        self.config.learning_rate.at(self.iterations)
    }

    /// Sets the learning rate from the next step on, in [0, inf).
    ///
    /// # Errors
    /// [`Error::Argument`] outside that range. The rate is unchanged then.
    pub fn set_learning_rate(&mut self, learning_rate: impl Into<Hyperparameter>) -> Result<(), Error> {
        let learning_rate = learning_rate.into();
        learning_rate.check("learning_rate", check::not_negative)?;
        self.config.learning_rate = learning_rate;
        Ok(())
    }

    /// Sets `beta_1` from the next step on, in (0, 1].
    ///
    /// # Errors
    /// As [`set_learning_rate`](Self::set_learning_rate).
    pub fn set_beta_1(&mut self, beta_1: impl Into<Hyperparameter>) -> Result<(), Error> {
        let beta_1 = beta_1.into();
        beta_1.check("beta_1", check::positive_fraction)?;
        self.config.beta_1 = beta_1;
        Ok(())
    }

    /// Sets `beta_2` from the next step on, in [0, 1].
    ///
    /// # Errors
    /// As [`set_learning_rate`](Self::set_learning_rate).
    pub fn set_beta_2(&mut self, beta_2: impl Into<Hyperparameter>) -> Result<(), Error> {
        let beta_2 = beta_2.into();
        beta_2.check("beta_2", check::fraction)?;
        self.config.beta_2 = beta_2;
        Ok(())
    }

    /// Sets the weight decay from the next step on, in [0, inf), or switches it off.
    ///
    /// # Errors
    /// As [`set_learning_rate`](Self::set_learning_rate).
    pub fn set_weight_decay(&mut self, weight_decay: Option<Hyperparameter>) -> Result<(), Error> {
        if let Some(weight_decay) = &weight_decay {
            weight_decay.check("weight_decay", check::not_negative)?;
        }
        self.config.weight_decay = weight_decay;
        Ok(())
    }

    /// Returns the group's overrides.
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(id.0)
    }

    /// Sets the group's overrides from the next step on. The default group can have overrides too.
    ///
    /// # Errors
    /// As [`add_group`](Self::add_group), and a group that this optimizer does not have. On an error nothing has changed.
    pub fn set_group(&mut self, id: GroupId, group: Group) -> Result<(), Error> {
        group.validate()?;
        self.require_group(id)?;
        self.groups[id.0] = group;
        Ok(())
    }

    /// Returns the hyperparameters of the next step for each group, the optimizer's own first. They are not checked.
    ///
    /// ```
    /// let mut optimizer = lion::Lion::builder().learning_rate(0.5).build()?;
    /// optimizer.add_group(lion::Group::new().learning_rate_multiplier(0.5))?;
    /// let learning_rates: Vec<_> = optimizer.step_hyperparameters().map(|it| it.learning_rate).collect();
    /// assert_eq!(learning_rates, [0.5, 0.25]);
    /// # Ok::<(), lion::Error>(())
    /// ```
    pub fn step_hyperparameters(&self) -> impl Iterator<Item = StepHyperparameters> {
        let step = self.iterations;
        let own = with_ieee_state(|| StepHyperparameters::new(&self.config, step));
        self.groups.iter().map(move |group| with_ieee_state(|| group.step_hyperparameters(&own, step)))
    }

    /// Multiplies the loss, in f32, by the static or dynamic loss scale of the next step. Differentiate the result.
    ///
    /// ```
    /// let mut optimizer = lion::Lion::builder().loss_scale_factor(1024.0).build()?;
    /// assert_eq!(optimizer.scale_loss(0.25), 256.0);
    /// # Ok::<(), lion::Error>(())
    /// ```
    pub fn scale_loss(&self, loss: f32) -> f32 {
        with_ieee_state(|| self.loss_scale.factor().map_or(loss, |factor| loss * factor))
    }

    /// Returns the dynamic loss scale and the number of finite steps since it last changed; `None` without one.
    pub fn dynamic_loss_scale(&self) -> Option<(f32, u64)> {
        match self.loss_scale {
            LossScale::Dynamic { scale, counter, .. } => Some((scale, counter)),
            LossScale::Off | LossScale::Static(_) => None,
        }
    }

    /// Sets the dynamic loss scale, in [0, inf], and its count of finite steps, to restore a state. As in Keras, the scale
    /// can be 0 or infinite.
    ///
    /// # Errors
    /// [`Error::Argument`] if the scale is negative or NaN, or if the optimizer has no dynamic loss scale.
    pub fn set_dynamic_loss_scale(&mut self, scale: f32, counter: u64) -> Result<(), Error> {
        let LossScale::Dynamic { scale: own, counter: count, .. } = &mut self.loss_scale else {
            return Err(Error::argument("dynamic_scale", scale, "left out without dynamic loss scaling"));
        };
        if scale.is_nan() || scale < 0.0 {
            return Err(Error::argument("dynamic_scale", scale, "in [0, inf]"));
        }
        (*own, *count) = (scale, counter);
        Ok(())
    }

    /// Returns the variable of that name.
    pub fn variable(&self, name: &str) -> Option<VariableId> {
        self.names.get(name).copied()
    }

    /// Returns every variable with its state, in the order of registration.
    pub fn variables(&self) -> impl ExactSizeIterator<Item = VariableView<'_>> {
        self.variables
            .iter()
            .enumerate()
            .map(|(index, variable)| self.state.view(VariableId(index), variable))
    }

    /// Returns the variable with its state.
    pub fn view(&self, variable: VariableId) -> Option<VariableView<'_>> {
        self.variables.get(variable.0).map(|found| self.state.view(variable, found))
    }

    /// Returns the variable's mutable state, to restore it.
    ///
    /// ```
    /// use lion::{Dtype, Lion, TensorRef};
    ///
    /// let mut optimizer = Lion::builder().build()?;
    /// let bias = optimizer.register("bias", &[2], Dtype::F32)?;
    /// if let Some(mut momentum) = optimizer.state_mut(bias).and_then(|state| state.momentum) {
    ///     assert!(momentum.copy_from(TensorRef::from(&[0.5_f32, -0.5])));
    /// }
    /// optimizer.set_iterations(1000);
    /// # Ok::<(), lion::Error>(())
    /// ```
    pub fn state_mut(&mut self, variable: VariableId) -> Option<VariableStateMut<'_>> {
        self.variables.get(variable.0).map(|found| self.state.states_mut().nth(variable.0, found))
    }

    /// Returns the variable's momentum.
    pub fn momentum(&self, variable: VariableId) -> Option<TensorRef<'_>> {
        self.view(variable)?.momentum
    }

    /// Converts the parameter, with its low halves if it has some (`split_master`), to f32. This is exact for every dtype.
    ///
    /// ```
    /// use half::bf16;
    /// use lion::{Dtype, Lion, Update};
    ///
    /// let mut optimizer = Lion::builder().learning_rate(1e-4).split_master(true).build()?;
    /// let weights = optimizer.register("weights", &[2], Dtype::BF16)?;
    /// let mut parameter = [bf16::ZERO; 2];
    /// optimizer.parameter_from_f32(weights, &[1.001, -3.3], &mut parameter)?;
    /// optimizer.apply(&mut [Update::new(weights, &mut parameter, &[1.0_f32, 1.0])])?;
    ///
    /// let mut values = [0.0; 2];
    /// optimizer.parameter_to_f32(weights, &parameter, &mut values)?;
    /// assert_eq!(values, [1.001 - 1e-4, -3.3 - 1e-4]);
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// A parameter whose length or dtype is not the variable's, or values of another length.
    pub fn parameter_to_f32<'a>(
        &self,
        variable: VariableId,
        parameter: impl Into<TensorRef<'a>>,
        values: &mut [f32],
    ) -> Result<(), Error> {
        let (parameter, found) = (parameter.into(), self.registered(variable)?);
        found.check_parameter("parameter", &parameter, found.held.len())?;
        found.check_length("values", values.len(), found.held.len())?;
        let parameter = match self.state.view(variable, found).low {
            Some(low) => TensorRef::from_streams(Dtype::Split, parameter, low)?,
            None => parameter,
        };
        Ok(Task::convert(parameter, values)?.run(self.backend)?)
    }

    /// Stores values as the parameter: exactly if the variable has low halves, which are set too, and otherwise rounded to
    /// nearest even.
    ///
    /// # Errors
    /// As [`parameter_to_f32`](Self::parameter_to_f32).
    pub fn parameter_from_f32<'a>(
        &mut self,
        variable: VariableId,
        values: &[f32],
        parameter: impl Into<TensorMut<'a>>,
    ) -> Result<(), Error> {
        let (parameter, backend, found) = (parameter.into(), self.backend, self.registered(variable)?);
        found.check_parameter("parameter", &parameter.to_ref(), found.held.len())?;
        found.check_length("values", values.len(), found.held.len())?;
        let low = self.state_mut(variable).and_then(|state| state.low);
        Ok(Task::convert(values, joined(parameter, low)?)?.run(backend)?)
    }

    /// Returns the variable's name.
    pub fn name(&self, variable: VariableId) -> Option<&str> {
        self.variables.get(variable.0).map(|variable| variable.name.as_str())
    }

    /// Returns the variable's shape.
    pub fn shape(&self, variable: VariableId) -> Option<&[usize]> {
        self.variables.get(variable.0).map(|variable| variable.shape.as_slice())
    }

    /// Returns the fraction of the parameter's elements, from 0 to 1, that the next step cannot move: the learning rate is
    /// below half a unit in their last place, so an update in either direction rounds to nothing.
    ///
    /// With a learning rate of 1e-4 this holds for every bf16 parameter above 1/32. An f32 momentum does not help if the
    /// parameter has 16 bits. A larger learning rate helps, and so do the options `stochastic_rounding` and `split_master`,
    /// and an f32 parameter with [`Update::copy`](crate::Update::copy). With stochastic rounding the fraction is 0. With
    /// low halves it is the fraction of the f32 parameter. Decay and averages are ignored. Infinite and NaN elements do not
    /// count as stalled. Without elements the fraction is 0.
    ///
    /// [`apply`](Self::apply) checks a sample of the elements in the updates 1, 2, 4, 8, …, and logs one warning if half of
    /// a 16-bit variable is stalled and the learning rate does not rise.
    ///
    /// ```
    /// use half::bf16;
    /// use lion::{Dtype, Lion};
    ///
    /// let mut optimizer = Lion::builder().learning_rate(1e-4).build()?;
    /// let weights = optimizer.register("weights", &[4], Dtype::BF16)?;
    /// let parameter = [1.0, -0.5, 0.01, 0.0].map(bf16::from_f32);
    /// assert_eq!(optimizer.stalled_fraction(weights, &parameter[..])?, 0.5);
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// A parameter whose length or dtype is not the variable's.
    pub fn stalled_fraction<'a>(
        &self,
        variable: VariableId,
        parameter: impl Into<TensorRef<'a>>,
    ) -> Result<f64, Error> {
        let parameter = parameter.into();
        let found = self.registered(variable)?;
        found.check_parameter("parameter", &parameter, found.held.len())?;
        let values = match (found.store, self.state.view(variable, found).low) {
            (Store::Stochastic(_), _) => return Ok(0.0),
            (_, Some(low)) => TensorRef::from_streams(Dtype::Split, parameter, low)?,
            _ => parameter,
        };
        Ok(with_ieee_state(|| stalled::fraction(values, self.hyperparameters_of(found).learning_rate)))
    }

    /// Returns the fraction of elements, from 0 to 1, for which the next step's direction has the sign of this gradient, so
    /// that the momentum does not reverse it. The direction is `c = momentum * beta_1 + gradient * (1 - beta_1)`, each
    /// operation rounded to f32. Call it before the gradient is applied; afterwards the momentum contains the gradient.
    ///
    /// +0 and -0 count as the same sign. A NaN in gradient, momentum or `c` agrees with nothing, but counts as an element.
    /// Without elements the fraction is 0. Pass the gradient as to [`apply`](Self::apply): it is divided by the loss scale,
    /// but neither averaged with an accumulator nor clipped.
    ///
    /// ```
    /// use lion::{Dtype, Lion, Update};
    ///
    /// let mut optimizer = Lion::builder().build()?;
    /// let weights = optimizer.register("weights", &[2], Dtype::F32)?;
    /// let mut parameter = [0.0_f32; 2];
    /// optimizer.apply(&mut [Update::new(weights, &mut parameter[..], &[1.0_f32, 1.0][..])])?;
    /// // The momentum of 0.01 outweighs the second gradient, but not the first.
    /// assert_eq!(optimizer.sign_agreement_fraction(weights, &[-1.0_f32, -0.0001][..])?, 0.5);
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// A gradient of another length than the variable's, and a variable that is overwritten with its gradient and so has no
    /// momentum.
    pub fn sign_agreement_fraction<'a>(
        &self,
        variable: VariableId,
        gradient: impl Into<TensorRef<'a>>,
    ) -> Result<f64, Error> {
        let gradient = gradient.into();
        let found = self.registered(variable)?;
        found.check_gradient(&gradient, found.held.len())?;
        let Some(momentum) = self.momentum(variable) else {
            return Err(Error::NoMomentum { name: found.name.clone() });
        };
        Ok(with_ieee_state(|| {
            let (beta_1, factor) = (self.hyperparameters_of(found).beta_1, self.loss_scale.factor());
            sign_agreement::fraction(momentum, gradient, beta_1, factor)
        }))
    }

    pub(crate) fn registered(&self, variable: VariableId) -> Result<&Variable, Error> {
        let (index, registered) = (variable.0, self.variables.len());
        self.variables.get(index).ok_or(Error::UnknownVariable { index, registered })
    }

    /// Returns the hyperparameters of a variable in the next step.
    fn hyperparameters_of(&self, variable: &Variable) -> StepHyperparameters {
        let own = StepHyperparameters::new(&self.config, self.iterations);
        self.groups[variable.group.0].step_hyperparameters(&own, self.iterations)
    }
}
