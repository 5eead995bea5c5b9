//! The optimizer: its variables with their state, and the step that updates them.

mod accessors;
mod batch;
mod check;
mod context;
mod follow;
mod order;
mod passes;
mod step;

use std::collections::HashMap;
use std::mem;

use lion_autotune::{Dtypes, Operation, Profile};
use lion_kernels::{Backend, Dtype, GradientStatistics, GradientTransform, Task, with_ieee_state};
use regex::Regex;

use self::check::Completeness;
use self::context::{ConstraintScratch, StepContext};
use self::order::CallerOrder;
use self::passes::clear_accumulators_beside;
use self::step::OpenStep;
use crate::accumulation::AccumulationCycle;
use crate::builder::Builder;
use crate::clip::{ClipMode, GradientSummary};
use crate::ema::EmaSettings;
use crate::group::{GroupStep, StepHyperparameters};
use crate::host_threads::HostThreads;
use crate::loss_scale::LossScale;
use crate::state::State;
use crate::statistics::Statistics;
use crate::variable::{StateSpec, Variable};
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
/// A clone has the same variables with the same ids, and a copy of their state.
///
/// A step needs exclusive access: the compiler refuses two at a time, and threads that share the optimizer behind a mutex
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
    /// The host's threads; `None` means rayon's.
    pub(crate) host: Option<HostThreads>,
    /// The instruction set for work that has no plan in the profile.
    backend: Backend,
    patterns: Vec<Regex>,
    clip_mode: ClipMode,
    cycle: AccumulationCycle,
    ema: Option<EmaSettings>,
    loss_scale: LossScale,
    /// The groups; the first has the optimizer's own hyperparameters.
    groups: Vec<Group>,
    variables: Vec<Variable>,
    state: State,
    names: HashMap<String, VariableId>,
    iterations: u64,
    /// The open step in parts.
    open: Option<OpenStep>,
    /// The number of steps in parts begun so far.
    begun: u64,
    watch: Watch,
    scratch: Scratch,
}

/// The working memory of steps, kept so that steps do not allocate.
#[derive(Debug, Default)]
struct Scratch {
    /// The kernel settings of each group.
    steps: Vec<GroupStep>,
    /// The statistics of each variable's gradient, in a step that needs them.
    measured: Vec<GradientStatistics>,
    statistics: Statistics,
    /// Empty between steps.
    tasks: Vec<Task<'static>>,
    order: CallerOrder,
    constraint: ConstraintScratch,
}

/// Copies only what an open step in parts needs; the rest is reusable memory.
impl Clone for Scratch {
    fn clone(&self) -> Self {
        Scratch { steps: self.steps.clone(), measured: self.measured.clone(), ..Self::default() }
    }
}

pub use self::step::{Abandoned, BeginOptions, StepId};

impl Lion {
    /// Returns a builder with Keras's defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Builds an optimizer with these options, and the default backend and profile.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn from_config(config: Config) -> Result<Self, Error> {
        Builder::from(config).build()
    }

    /// Requires that all arguments have been checked.
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
            clip_mode: ClipMode::new(&config),
            cycle: AccumulationCycle::new(&config),
            ema: EmaSettings::new(&config, ema_cadence),
            loss_scale: LossScale::new(&config),
            groups: vec![Group::new()],
            variables: Vec::new(),
            state: State::default(),
            names: HashMap::new(),
            iterations: 0,
            open: None,
            begun: 0,
            watch: Watch::default(),
            scratch: Scratch::default(),
            config,
        })
    }

    /// Adds a variable with default options. Its state is zero.
    ///
    /// # Errors
    /// A name that is empty or exists already, a shape that is too large, or out of memory.
    pub fn register(&mut self, name: &str, shape: &[usize], dtype: Dtype) -> Result<VariableId, Error> {
        self.register_with(name, shape, dtype, VariableOptions::default())
    }

    /// Adds a variable. Its state is zero, also after earlier steps.
    ///
    /// # Errors
    /// As [`register`](Self::register), and a constraint along an axis that the shape does not have, or a group that this
    /// optimizer does not have.
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
        let spec = StateSpec {
            momentum_dtype: self.config.momentum_dtype,
            stochastic_rounding: self.config.stochastic_rounding,
            split_master: self.config.split_master,
            decays: !self.patterns.iter().any(|pattern| pattern.is_match(name)),
            ema: self.ema.is_some(),
            accumulator: self.cycle.steps.is_some(),
        };
        let id = VariableId(self.variables.len());
        let variable = Variable::new(name, shape, dtype, options, spec)?;
        self.state.push(&variable).map_err(|source| variable.error(source))?;
        self.variables.push(variable);
        self.names.insert(name.into(), id);
        Ok(id)
    }

    /// Adds a group of hyperparameters, for [`VariableOptions::group`].
    ///
    /// # Errors
    /// [`Error::Argument`] for a hyperparameter outside its range.
    pub fn add_group(&mut self, group: Group) -> Result<GroupId, Error> {
        group.validate()?;
        self.groups.push(group);
        Ok(GroupId(self.groups.len() - 1))
    }

    /// Does one step: applies the gradients to the variables, like Keras's `optimizer.apply`. Each variable occurs at most
    /// once. Without updates nothing happens.
    ///
    /// The updates may be in any order, and the list keeps its order. The threads of the current rayon pool share the work
    /// as the [`Profile`] says.
    ///
    /// With a moving average a step must name every variable that is not overwritten with its gradient. Use
    /// [`Update::without_gradient`] for a variable that has no gradient.
    ///
    /// # Errors
    /// A tensor does not match its variable; a variable occurs twice, or is missing although its average needs it; no
    /// update has a gradient; a schedule gives a hyperparameter outside its range; out of memory. On an error nothing has
    /// changed.
    ///
    /// # Panics
    /// Panics if a schedule's or constraint's closure panics. A schedule's closure runs before anything changes. A
    /// constraint's closure runs after all variables have been updated, in the order of registration: if it panics, later
    /// variables are updated and not constrained, the step is not counted, and the list may have another order.
    ///
    /// # Floating-point state
    /// The step, closures included, computes under the IEEE default state, whatever state the host has set on the calling
    /// thread or on the pool's threads.
    pub fn apply(&mut self, updates: &mut [Update<'_>]) -> Result<Metrics, Error> {
        with_ieee_state(|| self.apply_in_ieee_state(updates))
    }

    fn apply_in_ieee_state(&mut self, updates: &mut [Update<'_>]) -> Result<Metrics, Error> {
        self.require_no_step()?;
        if updates.is_empty() {
            return Ok(Metrics::empty(self.learning_rate(), self.loss_scale.factor()));
        }
        self.in_registration_order(updates, Self::apply_in_order)
    }

    /// Sorts the updates by variable and element, does the work on them, and puts them back in the caller's order.
    fn in_registration_order<'u, T>(
        &mut self,
        updates: &mut [Update<'u>],
        work: impl FnOnce(&mut Self, &mut [Update<'u>]) -> T,
    ) -> T {
        let mut order = mem::take(&mut self.scratch.order);
        order.sort(updates, |update| (update.variable, update.start()));
        let result = work(self, updates);
        order.restore(updates);
        self.scratch.order = order;
        result
    }

    fn apply_in_order(&mut self, updates: &mut [Update<'_>]) -> Result<Metrics, Error> {
        // All checks come before the first change.
        self.check(updates, Completeness::Whole)?;
        let mut context = self.step_context(self.only_overwrites(updates)?)?;
        let learning_rate = self.evaluate()?;
        if context.needs_statistics {
            self.compute_statistics(&mut context, updates)?;
        }
        self.run(&context, updates)?;
        if context.clears_accumulators(self.cycle) {
            let given = updates.iter().map(|update| (update.variable, update.elements()));
            clear_accumulators_beside(given, &self.variables, &mut self.state);
        }
        let mut stalls = None;
        if self.watch.looks_for_stalls(context.outcome, &self.config.learning_rate, learning_rate) {
            stalls.insert(self.watch.stalls()).add(&self.variables, &self.scratch.steps, updates);
        }
        Ok(self.count(&context, learning_rate, stalls.as_ref()))
    }

    /// Does the step's work on the given variables or ranges.
    fn run(&mut self, context: &StepContext, updates: &mut [Update<'_>]) -> Result<(), Error> {
        // A dynamic loss scale skips a step with a non-finite gradient.
        if context.outcome == Outcome::Skipped {
            return self.copy_sources(updates);
        }
        // One pass per variable does everything: overwriting with the gradient, or unscaling, accumulation, clipping,
        // decay, step and average. A second pass applies constraints.
        if self.update_variables(context, updates)? {
            self.run_deferred(context, updates)?;
        }
        Ok(())
    }

    /// Counts a step that has done its work.
    fn count(&mut self, context: &StepContext, learning_rate: f32, stalls: Option<&Stalls>) -> Metrics {
        match context.outcome {
            Outcome::Skipped => self.loss_scale.overflowed(),
            _ => {
                self.iterations = self.iterations.saturating_add(1);
                self.loss_scale.succeeded();
            }
        }
        self.watch.warn(self.loss_scale.factor().filter(|_| self.loss_scale.is_dynamic()), stalls);
        Metrics { stalled_fraction: stalls.map(Stalls::fraction), ..context.metrics(learning_rate) }
    }

    /// Overwrites each parameter with its moving average, for the end of training. Without an average nothing happens.
    /// Gradients are ignored, and no step is counted.
    ///
    /// # Errors
    /// As [`apply`](Self::apply). On an error nothing has changed.
    pub fn finalize_variable_values(&mut self, updates: &mut [Update<'_>]) -> Result<(), Error> {
        self.require_no_step()?;
        let completeness = if updates.is_empty() { Completeness::Part } else { Completeness::Whole };
        self.in_registration_order(updates, |optimizer, updates| {
            optimizer.check(updates, completeness)?;
            optimizer.overwrite_with_averages(updates)
        })
    }

    /// Evaluates the hyperparameters of each group for this step. Returns the learning rate.
    fn evaluate(&mut self) -> Result<f32, Error> {
        let step = self.iterations;
        let own = StepHyperparameters::new(&self.config, step);
        let steps = &mut self.scratch.steps;
        for (index, group) in self.groups.iter().enumerate() {
            let hyperparameters = group.step_hyperparameters(&own, step);
            let checked = || {
                hyperparameters
                    .group_step(step)
                    .map_err(|error| if index == 0 { error } else { error.under(&format!("group {index}")) })
            };
            match steps.get_mut(index) {
                // They are usually the last step's numbers, which have been checked.
                Some(known) if known.hyperparameters.same(&hyperparameters) => {}
                Some(known) => *known = checked()?,
                None => steps.push(checked()?),
            }
        }
        Ok(own.learning_rate)
    }

    /// Returns whether only variables that are overwritten with their gradient have one.
    fn only_overwrites(&self, updates: &[Update<'_>]) -> Result<bool, Error> {
        let mut gradients = updates.iter().filter(|update| update.gradient.is_some()).peekable();
        match gradients.peek() {
            Some(_) => Ok(gradients.all(|update| self.variables[update.variable.0].overwritten)),
            None => Err(Error::NoGradients),
        }
    }

    /// Decides what the step does.
    fn step_context(&self, only_overwrites: bool) -> Result<StepContext, Error> {
        let ends_cycle = self.cycle.ends(self.iterations);
        let outcome = match only_overwrites {
            true => Outcome::Overwritten,
            false if ends_cycle => Outcome::Updated,
            false => Outcome::Accumulated,
        };
        let loss_scale = self.loss_scale.factor();
        let mut gradient = GradientTransform::new();
        if let Some(factor) = loss_scale {
            gradient = gradient.loss_scale(factor)?;
        }
        if let (Some(steps), true) = (self.cycle.steps, ends_cycle) {
            gradient = gradient.average_over(steps.get())?;
        }
        let ema = match self.ema {
            Some(settings) if outcome != Outcome::Overwritten => {
                settings.at(self.cycle.index(self.iterations), ends_cycle)?
            }
            _ => None,
        };
        let by_norm = matches!(self.clip_mode, ClipMode::Global(_) | ClipMode::Norm(_));
        Ok(StepContext {
            backend: self.backend,
            number: self.iterations,
            outcome,
            ends_cycle,
            loss_scale,
            gradient,
            clip_mode: self.clip_mode,
            ema,
            needs_statistics: (by_norm && outcome == Outcome::Updated) || self.loss_scale.is_dynamic(),
            gradients: GradientSummary::before(self.clip_mode),
        })
    }

    fn require_group(&self, id: GroupId) -> Result<(), Error> {
        let (index, groups) = (id.0, self.groups.len());
        if index < groups { Ok(()) } else { Err(Error::UnknownGroup { index, groups }) }
    }
}

/// Returns the instruction set for work that has no plan in the profile.
///
/// # Errors
/// An instruction set that this machine does not have: the plan may be from another machine.
pub(crate) fn backend_of(profile: &Profile) -> Result<Backend, Error> {
    let plan = profile.plan(Operation::Step, Dtypes::all(Dtype::F32), 0);
    Ok(plan.backend.ensure_available()?)
}
