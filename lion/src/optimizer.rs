//! The optimizer: the variables with their state, and the call that moves them.

mod call;
mod check;
mod follow;
mod passes;
mod queue;
mod state;
mod step;

use std::collections::HashMap;

use lion_autotune::{Dtypes, Operation, Profile};
use lion_kernels::{Backend, Dtype, GradientStatistics, GradientTransform, Task, with_ieee_state};
use regex::Regex;

use self::call::{Call, Room};
use self::check::Completeness;
use self::passes::clear_accumulators_beside;
use self::step::OpenStep;
use crate::accumulation::Window;
use crate::builder::Builder;
use crate::clip::{Clipping, Found};
use crate::ema::Averaging;
use crate::group::{Rates, Steps};
use crate::host_threads::HostThreads;
use crate::loss_scale::LossScale;
use crate::memory::Memory;
use crate::statistics::Statistics;
use crate::variable::{Variable, Wanted};
use crate::watch::{Stalls, Watch};
use crate::{
    Config, EmaCadence, Error, Group, GroupId, Metrics, Outcome, Update, VariableId, VariableOptions,
};

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
///
/// A clone has the same variables, under the same ids, and a copy of their state.
///
/// A call has the optimizer for itself: the compiler refuses two at a time, and threads that share it behind a mutex
/// wait for each other.
///
/// ```compile_fail,E0499
/// # let mut optimizer = lion::Lion::builder().build()?;
/// std::thread::scope(|scope| {
///     scope.spawn(|| optimizer.apply(&mut []));
///     scope.spawn(|| optimizer.apply(&mut []));
/// });
/// # Ok::<(), lion::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lion {
    pub(crate) config: Config,
    profile: Profile,
    /// The threads of calls, if not rayon's.
    pub(crate) host: Option<HostThreads>,
    /// For what no profile is about.
    backend: Backend,
    patterns: Vec<Regex>,
    clipping: Clipping,
    window: Window,
    averaging: Option<Averaging>,
    loss_scale: LossScale,
    /// The first is the optimizer's own hyperparameters.
    groups: Vec<Group>,
    variables: Vec<Variable>,
    memory: Memory,
    names: HashMap<String, VariableId>,
    iterations: u64,
    /// The step that has begun and is neither finished nor abandoned.
    open: Option<OpenStep>,
    /// Steps begun so far.
    begun: u64,
    watch: Watch,
    scratch: Scratch,
}

/// What a call works in, kept so that calls need not allocate.
#[derive(Debug, Default)]
struct Scratch {
    /// By group.
    steps: Vec<Steps>,
    /// Of each variable's gradient, where the call looks ahead.
    measured: Vec<GradientStatistics>,
    statistics: Statistics,
    /// Empty between calls.
    tasks: Vec<Task<'static>>,
    room: Room,
}

/// What a step in parts needs until it is finished; the rest is memory.
impl Clone for Scratch {
    fn clone(&self) -> Self {
        Scratch { steps: self.steps.clone(), measured: self.measured.clone(), ..Self::default() }
    }
}

pub use self::step::{Abandoned, BeginOptions, StepId};

impl Lion {
    /// The options, at Keras's defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// An optimizer with these options, and what a [`Builder`] has beside them at its defaults.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn from_config(config: Config) -> Result<Self, Error> {
        Builder::from(config).build()
    }

    /// All has been checked.
    pub(crate) fn new(
        config: Config,
        ema_cadence: EmaCadence,
        patterns: Vec<Regex>,
        profile: Profile,
        backend: Backend,
    ) -> Self {
        with_ieee_state(|| Lion {
            profile,
            host: None,
            backend,
            patterns,
            clipping: Clipping::new(&config),
            window: Window::new(&config),
            averaging: Averaging::new(&config, ema_cadence),
            loss_scale: LossScale::new(&config),
            groups: vec![Group::new()],
            variables: Vec::new(),
            memory: Memory::default(),
            names: HashMap::new(),
            iterations: 0,
            open: None,
            begun: 0,
            watch: Watch::default(),
            scratch: Scratch::default(),
            config,
        })
    }

    /// Adds a variable with nothing special about it. Its state is zero.
    ///
    /// # Errors
    /// A name that is taken or empty, a shape too large, or memory that cannot be had.
    pub fn register(&mut self, name: &str, shape: &[usize], dtype: Dtype) -> Result<VariableId, Error> {
        self.register_with(name, shape, dtype, VariableOptions::default())
    }

    /// Adds a variable. Its state is zero, also where calls have been made before.
    ///
    /// # Errors
    /// As [`register`](Self::register), and a constraint along an axis that the shape does not have, or a group that
    /// this optimizer has not.
    pub fn register_with(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: Dtype,
        options: VariableOptions,
    ) -> Result<VariableId, Error> {
        self.require_no_step()?;
        if name.is_empty() {
            return Err(Error::argument("the name", "\"\"", "a text that is not empty"));
        }
        if self.names.contains_key(name) {
            return Err(Error::DuplicateName { name: name.into() });
        }
        self.require_group(options.group)?;
        let wanted = Wanted {
            momentum_dtype: self.config.momentum_dtype,
            stochastic_rounding: self.config.stochastic_rounding,
            split_master: self.config.split_master,
            decays: !self.patterns.iter().any(|pattern| pattern.is_match(name)),
            ema: self.averaging.is_some(),
            accumulator: self.window.calls.is_some(),
        };
        let id = VariableId(self.variables.len());
        let variable = Variable::new(name, shape, dtype, options, wanted)?;
        self.memory.push(&variable).map_err(|source| variable.error(source))?;
        self.variables.push(variable);
        self.names.insert(name.into(), id);
        Ok(id)
    }

    /// Adds a group of hyperparameters, for [`VariableOptions::group`].
    ///
    /// # Errors
    /// [`Error::Argument`] for one outside its range.
    pub fn add_group(&mut self, group: Group) -> Result<GroupId, Error> {
        group.validate()?;
        self.groups.push(group);
        Ok(GroupId(self.groups.len() - 1))
    }

    /// Applies gradients to the variables of the call, each named at most once and in any order, as one call of
    /// Keras's `optimizer.apply`. In a call that names none nothing happens.
    ///
    /// The updates are put in the order of registration. The work is cut among the threads of the rayon pool that this
    /// is called in, as the [`Profile`] says.
    ///
    /// With a moving average a call must name every variable, but those overwritten with their gradient: use
    /// [`Update::without_gradient`] for one that has none.
    ///
    /// # Errors
    /// Tensors that do not fit their variables; a variable named twice, or left out where the average needs it; no
    /// gradient at all; a hyperparameter outside its range, which a schedule gives in this call; memory that cannot be
    /// had. Nothing has been changed then.
    ///
    /// # Panics
    /// Where a schedule's or constraint's closure does. A schedule's runs before anything is changed. A constraint's
    /// runs when all variables have been moved, in the order of registration: where it panics, those registered after
    /// its own have been moved and not constrained, and the call has not been counted.
    ///
    /// # Floating-point state
    /// The call computes under the IEEE default state, closures included, whatever state the host has set on the calling
    /// thread or on those of the pool.
    pub fn apply(&mut self, updates: &mut [Update<'_>]) -> Result<Metrics, Error> {
        with_ieee_state(|| self.apply_in_ieee_state(updates))
    }

    fn apply_in_ieee_state(&mut self, updates: &mut [Update<'_>]) -> Result<Metrics, Error> {
        self.require_no_step()?;
        // No variables: nothing happens.
        if updates.is_empty() {
            return Ok(Metrics::of_nothing(self.learning_rate(), self.loss_scale.factor()));
        }
        // All that can be wrong, while nothing has been changed.
        self.check(updates, Completeness::Whole)?;
        let mut call = self.call(self.only_overwrites(updates)?)?;
        let learning_rate = self.evaluate()?;
        if call.looks_ahead {
            self.look_ahead(&mut call, updates)?;
        }
        self.run(&call, updates)?;
        if call.clears_accumulators(self.window) {
            let given = updates.iter().map(|update| (update.variable, update.elements()));
            clear_accumulators_beside(given, &self.variables, &mut self.memory);
        }
        let mut stalls = None;
        if self.watch.looks_for_stalls(call.outcome, &self.config.learning_rate, learning_rate) {
            stalls.insert(self.watch.stalls()).add(&self.variables, &self.scratch.steps, updates);
        }
        Ok(self.count(&call, learning_rate, stalls.as_ref()))
    }

    /// Does the call's work on the variables, or parts of them, that are given.
    fn run(&mut self, call: &Call, updates: &mut [Update<'_>]) -> Result<(), Error> {
        // A dynamic loss scale skips the call where a gradient is not finite.
        if call.outcome == Outcome::Skipped {
            return self.keep_all(updates);
        }
        // Each variable, in one pass: overwriting with the gradient, or else unscaling, accumulation, clipping,
        // decay, step, average; and then its constraint.
        if self.visit(call, updates)? {
            self.constrain_and_copy(call, updates)?;
        }
        Ok(())
    }

    /// Counts a call that has done its work.
    fn count(&mut self, call: &Call, learning_rate: f32, stalls: Option<&Stalls>) -> Metrics {
        match call.outcome {
            Outcome::Skipped => self.loss_scale.overflowed(),
            _ => {
                self.iterations = self.iterations.saturating_add(1);
                // A dynamic loss scale has had a finite call.
                self.loss_scale.succeeded();
            }
        }
        self.watch.warn(self.loss_scale.factor().filter(|_| self.loss_scale.is_dynamic()), stalls);
        Metrics { stalled: stalls.map(Stalls::share), ..call.metrics(learning_rate) }
    }

    /// Makes each parameter its moving average, as at the end of training. Without an average nothing happens;
    /// gradients are ignored, and nothing is counted.
    ///
    /// # Errors
    /// As [`apply`](Self::apply). Nothing has been changed then.
    pub fn finalize_variable_values(&mut self, updates: &mut [Update<'_>]) -> Result<(), Error> {
        self.require_no_step()?;
        self.check(updates, if updates.is_empty() { Completeness::Part } else { Completeness::Whole })?;
        self.overwrite_with_averages(updates)
    }

    /// The step of each group, with its hyperparameters as schedules have them in this call. Gives the learning
    /// rate.
    fn evaluate(&mut self) -> Result<f32, Error> {
        let call = self.iterations;
        let own = Rates::new(&self.config, call);
        let steps = &mut self.scratch.steps;
        for (index, group) in self.groups.iter().enumerate() {
            let rates = group.rates(&own, call);
            let checked = || {
                rates
                    .steps(call)
                    .map_err(|error| if index == 0 { error } else { error.under(&format!("group {index}")) })
            };
            match steps.get_mut(index) {
                // Mostly they are the numbers of the last call, which have been checked.
                Some(known) if known.rates.same(&rates) => {}
                Some(known) => *known = checked()?,
                None => steps.push(checked()?),
            }
        }
        Ok(own.learning_rate)
    }

    /// Whether only variables that are overwritten with their gradient have one.
    fn only_overwrites(&self, updates: &[Update<'_>]) -> Result<bool, Error> {
        let mut gradients = updates.iter().filter(|update| update.gradient.is_some()).peekable();
        match gradients.peek() {
            Some(_) => Ok(gradients.all(|update| self.variables[update.variable.0].overwritten)),
            None => Err(Error::NoGradients),
        }
    }

    /// What kind of call this is.
    fn call(&self, only_overwrites: bool) -> Result<Call, Error> {
        let ends_window = self.window.ends(self.iterations);
        let outcome = match only_overwrites {
            true => Outcome::Overwritten,
            false if ends_window => Outcome::Updated,
            false => Outcome::Accumulated,
        };
        let loss_scale = self.loss_scale.factor();
        let mut gradient = GradientTransform::new();
        if let Some(factor) = loss_scale {
            gradient = gradient.loss_scale(factor)?;
        }
        if let (Some(calls), true) = (self.window.calls, ends_window) {
            gradient = gradient.average_over(calls.get())?;
        }
        let ema = match self.averaging {
            Some(averaging) if outcome != Outcome::Overwritten => {
                averaging.at(self.window.index(self.iterations), ends_window)?
            }
            _ => None,
        };
        let by_norm = matches!(self.clipping, Clipping::Global(_) | Clipping::Norm(_));
        Ok(Call {
            backend: self.backend,
            number: self.iterations,
            outcome,
            ends_window,
            loss_scale,
            gradient,
            clipping: self.clipping,
            ema,
            looks_ahead: (by_norm && outcome == Outcome::Updated) || self.loss_scale.is_dynamic(),
            found: Found::before(self.clipping),
        })
    }

    fn require_group(&self, id: GroupId) -> Result<(), Error> {
        let (index, groups) = (id.0, self.groups.len());
        if index < groups { Ok(()) } else { Err(Error::UnknownGroup { index, groups }) }
    }
}

/// The instruction set for what a profile is not about.
///
/// # Errors
/// One that this machine lacks: a plan may have been made for another.
pub(crate) fn backend_of(profile: &Profile) -> Result<Backend, Error> {
    let plan = profile.plan(Operation::Step, Dtypes::all(Dtype::F32), 0);
    Ok(plan.backend.ensure_available()?)
}
