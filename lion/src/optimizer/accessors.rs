//! What an optimizer tells of itself between calls, and lets be changed.

use lion_autotune::Profile;
use lion_kernels::{Backend, Dtype, Task, TensorMut, TensorRef, with_ieee_state};

use super::{Lion, backend_of};
use crate::group::StepHyperparameters;
use crate::loss_scale::LossScale;
use crate::variable::{Store, Variable, VariableStateMut, VariableView, joined};
use crate::{Config, Error, Group, GroupId, Hyperparameter, VariableId, check, sign_agreement, stalled};

impl Lion {
    /// The options, with the hyperparameters as they were last set.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The number of calls of [`apply`](Lion::apply) so far, without those that a dynamic loss scale skipped. It is
    /// the step that schedules see in the next call. (Keras's public `iterations` is this divided by
    /// `gradient_accumulation_steps`.)
    pub fn iterations(&self) -> u64 {
        self.iterations
    }

    /// Goes on as after this many calls: for a state that comes from elsewhere.
    pub fn set_iterations(&mut self, iterations: u64) {
        self.iterations = iterations;
    }

    /// The instruction set that calls use, unless the profile has measured a faster one for a pass.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// How the work of calls is cut and where it runs.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Sets how the work of calls is cut and where it runs, from the next call on. The result is the same, bit for bit.
    ///
    /// # Errors
    /// An instruction set that this machine lacks. The profile is then as it was.
    pub fn set_profile(&mut self, profile: Profile) -> Result<(), Error> {
        self.backend = backend_of(&profile)?;
        self.profile = profile;
        Ok(())
    }

    /// The learning rate of the next call, without the multiplier of a group.
    pub fn learning_rate(&self) -> f32 {
        self.config.learning_rate.at(self.iterations)
    }

    /// Sets the learning rate from the next call on, in [0, inf).
    ///
    /// # Errors
    /// [`Error::Argument`] outside that range. The rate is then as it was.
    pub fn set_learning_rate(&mut self, learning_rate: impl Into<Hyperparameter>) -> Result<(), Error> {
        let learning_rate = learning_rate.into();
        learning_rate.check("learning_rate", check::not_negative)?;
        self.config.learning_rate = learning_rate;
        Ok(())
    }

    /// Sets `beta_1` from the next call on, in (0, 1].
    ///
    /// # Errors
    /// As [`set_learning_rate`](Self::set_learning_rate).
    pub fn set_beta_1(&mut self, beta_1: impl Into<Hyperparameter>) -> Result<(), Error> {
        let beta_1 = beta_1.into();
        beta_1.check("beta_1", check::positive_fraction)?;
        self.config.beta_1 = beta_1;
        Ok(())
    }

    /// Sets `beta_2` from the next call on, in [0, 1].
    ///
    /// # Errors
    /// As [`set_learning_rate`](Self::set_learning_rate).
    pub fn set_beta_2(&mut self, beta_2: impl Into<Hyperparameter>) -> Result<(), Error> {
        let beta_2 = beta_2.into();
        beta_2.check("beta_2", check::fraction)?;
        self.config.beta_2 = beta_2;
        Ok(())
    }

    /// Sets the weight decay from the next call on, in [0, inf), or switches it off.
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

    /// The group's hyperparameters.
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(id.0)
    }

    /// Sets the group's hyperparameters from the next call on. Those of the default group come on top of the
    /// optimizer's own.
    ///
    /// # Errors
    /// As [`add_group`](Self::add_group), and a group that this optimizer has not. It is then as it was.
    pub fn set_group(&mut self, id: GroupId, group: Group) -> Result<(), Error> {
        group.validate()?;
        self.require_group(id)?;
        self.groups[id.0] = group;
        Ok(())
    }

    /// The hyperparameters of the next call, by group: the first are the optimizer's own. They are not checked.
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

    /// The loss to differentiate: the loss times the static or dynamic scale of the next call, in f32.
    ///
    /// ```
    /// let mut optimizer = lion::Lion::builder().loss_scale_factor(1024.0).build()?;
    /// assert_eq!(optimizer.scale_loss(0.25), 256.0);
    /// # Ok::<(), lion::Error>(())
    /// ```
    pub fn scale_loss(&self, loss: f32) -> f32 {
        with_ieee_state(|| self.loss_scale.factor().map_or(loss, |factor| loss * factor))
    }

    /// The dynamic loss scale, and how many finite calls there were since it last changed; `None` without one.
    pub fn dynamic_loss_scale(&self) -> Option<(f32, u64)> {
        match self.loss_scale {
            LossScale::Dynamic { scale, counter, .. } => Some((scale, counter)),
            LossScale::Off | LossScale::Static(_) => None,
        }
    }

    /// Goes on with this dynamic loss scale, in [0, inf], and count of finite calls: for a state that comes from
    /// elsewhere. Keras's scale too can come to either end of the range.
    ///
    /// # Errors
    /// [`Error::Argument`] for a scale that is negative or NaN, or where the optimizer has no dynamic loss scale.
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

    /// The variable of that name.
    pub fn variable(&self, name: &str) -> Option<VariableId> {
        self.names.get(name).copied()
    }

    /// Every variable with its state, in the order of registration.
    pub fn variables(&self) -> impl ExactSizeIterator<Item = VariableView<'_>> {
        self.variables
            .iter()
            .enumerate()
            .map(|(index, variable)| self.state.view(VariableId(index), variable))
    }

    /// The variable with its state.
    pub fn view(&self, variable: VariableId) -> Option<VariableView<'_>> {
        self.variables.get(variable.0).map(|found| self.state.view(variable, found))
    }

    /// The variable's state, to be overwritten with one that comes from elsewhere.
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

    /// The variable's momentum.
    pub fn momentum(&self, variable: VariableId) -> Option<TensorRef<'_>> {
        self.view(variable)?.momentum
    }

    /// The parameter as f32, with its low halves if it has some (`split_master`): exact for every format.
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
    /// A parameter that is not the variable's, or values of another length.
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

    /// Stores values as the parameter: exactly where the variable has low halves, which are set too, else rounded to
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

    /// The variable's name.
    pub fn name(&self, variable: VariableId) -> Option<&str> {
        self.variables.get(variable.0).map(|variable| variable.name.as_str())
    }

    /// The variable's shape.
    pub fn shape(&self, variable: VariableId) -> Option<&[usize]> {
        self.variables.get(variable.0).map(|variable| variable.shape.as_slice())
    }

    /// The share of the parameter's elements that the next call cannot move, from 0 to 1: those for which its
    /// learning rate is below half a unit in the last place, so that rounding gives them back whichever the sign.
    ///
    /// With a learning rate of 1e-4 that is every bf16 parameter above 1/32. A momentum in f32 does not help where the
    /// parameter itself is 16 bits; a larger rate, the options `stochastic_rounding` and `split_master`, or an f32
    /// parameter with [`Update::copy`](crate::Update::copy) do. Of a variable that is rounded at random the share is 0;
    /// with low halves it is that of the f32 parameter. Decay and averages are not looked at. An infinite or NaN element
    /// does not count, and of no elements the share is 0.
    ///
    /// [`apply`](Self::apply) looks at a sample of the elements itself, after its first call and ever more seldom, and
    /// logs one warning if half of a 16-bit variable stalls and the learning rate does not rise.
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
    /// A parameter that is not the variable's.
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

    /// The share of elements, from 0 to 1, for which the next call steps against the sign of this gradient, so that the
    /// momentum has not turned it: those whose `c = momentum * beta_1 + gradient * (1 - beta_1)`, each operation
    /// rounded to f32, is above zero where the gradient is, below zero where it is, and zero where it is. Ask before
    /// the gradient is applied; afterwards it is in the momentum.
    ///
    /// Zeros of both signs are one zero. A NaN, of the gradient, the momentum or `c`, agrees with nothing, but is an
    /// element; of no elements the share is 0. The gradient is given as to [`apply`](Self::apply): it is divided by the
    /// loss scale, but neither averaged with those that wait in an accumulator nor clipped.
    ///
    /// ```
    /// use lion::{Dtype, Lion, Update};
    ///
    /// let mut optimizer = Lion::builder().build()?;
    /// let weights = optimizer.register("weights", &[2], Dtype::F32)?;
    /// let mut parameter = [0.0_f32; 2];
    /// optimizer.apply(&mut [Update::new(weights, &mut parameter[..], &[1.0_f32, 1.0][..])])?;
    /// // The momentum of 0.01 outweighs the second of these, and not the first.
    /// assert_eq!(optimizer.sign_agreement_fraction(weights, &[-1.0_f32, -0.0001][..])?, 0.5);
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// A gradient that has not the variable's length, and a variable that is overwritten with its gradient and so has
    /// no momentum.
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

    /// The hyperparameters of a variable in the next call.
    fn hyperparameters_of(&self, variable: &Variable) -> StepHyperparameters {
        let own = StepHyperparameters::new(&self.config, self.iterations);
        self.groups[variable.group.0].step_hyperparameters(&own, self.iterations)
    }
}
