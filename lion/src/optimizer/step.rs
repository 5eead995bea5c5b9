//! A step in parts: begin, then any number of parts (variables or ranges of variables), then finish.
//!
//! [`Lion::begin`] makes the decisions that hold for all variables: hyperparameters, accumulation, loss scale, clipping. So
//! each part can run as soon as its gradient is ready, and the gradient can be freed. Any split into parts gives the same
//! bits as [`Lion::apply`].

use std::ops::Range;

use lion_kernels::with_ieee_state;

use super::Lion;
use super::batch::TaskBatch;
use super::check::Completeness;
use super::context::StepContext;
use super::passes::clear_accumulators_beside;
use crate::coverage::Coverage;
use crate::statistics::{Gradient, Statistics};
use crate::watch::Stalls;
use crate::{Error, Metrics, Outcome, Update, VariableId};

/// The id of a step that [`Lion::begin`] has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "the optimizer refuses other calls until the step is finished or abandoned"]
pub struct StepId(u64);

/// Options of [`Lion::begin`].
#[derive(Clone, Copy, Debug, Default)]
pub struct BeginOptions<'a> {
    /// The statistics of all gradients of the step. Clipping by norm and a dynamic loss scale need them before the first
    /// part.
    pub statistics: Option<&'a Statistics>,
    /// Declares that only variables that are overwritten with their gradient will have one. The averages and accumulators
    /// of other variables are not updated then, as in [`Lion::apply`].
    pub only_overwrites: bool,
    /// Declares that other optimizers hold other shards of the variables and may have gradients. The step counts even if
    /// this optimizer gets none.
    pub elsewhere: bool,
}

/// The state of a step that [`Lion::abandon`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Abandoned {
    /// The number of the step, which the next step gets again.
    pub step: u64,
    /// The elements that parts of the step have written, in order. They and their state are as after the step.
    pub written: Vec<(VariableId, Range<usize>)>,
}

/// The state of an open step.
#[derive(Clone, Debug)]
pub(super) struct OpenStep {
    id: StepId,
    number: u64,
    pub(super) context: StepContext,
    learning_rate: f32,
    /// The statistics that the step began with, if it needs them.
    statistics: Option<Statistics>,
    given: Coverage,
    /// Whether a part had a gradient.
    gradients: bool,
    /// Whether a part had a gradient that trains its variable.
    trained: bool,
    elsewhere: bool,
    /// The stalled variables found so far, if the step checks for them.
    stalls: Option<Stalls>,
}

impl Lion {
    /// Returns empty statistics for the next step.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn statistics(&self) -> Result<Statistics, Error> {
        let mut statistics = Statistics::default();
        statistics.reset(self.iterations, &self.variables)?;
        Ok(statistics)
    }

    /// Adds the statistics of these gradients as the next step will use them: divided by the loss scale, and averaged with
    /// the accumulators. Sorts the gradients by variable and element.
    ///
    /// # Errors
    /// A gradient that does not match its variable, a range that cuts a block of 4,096 elements, a block that has been
    /// measured before, or statistics of another step. On an error nothing has been added.
    pub fn measure(
        &mut self,
        statistics: &mut Statistics,
        gradients: &mut [Gradient<'_>],
    ) -> Result<(), Error> {
        with_ieee_state(|| self.measure_in_ieee_state(statistics, gradients))
    }

    fn measure_in_ieee_state(
        &mut self,
        statistics: &mut Statistics,
        gradients: &mut [Gradient<'_>],
    ) -> Result<(), Error> {
        self.require_no_step()?;
        self.require_current(statistics)?;
        let start = |gradient: &Gradient<'_>| gradient.range.as_ref().map_or(0, |range| range.start);
        gradients.sort_unstable_by_key(|gradient| (gradient.variable, start(gradient)));
        let elements = |gradient: &Gradient<'_>| gradient.range.clone().unwrap_or(0..gradient.values.len());
        let mut before: Option<(VariableId, Range<usize>)> = None;
        for gradient in gradients.iter() {
            let (variable, range) = (self.registered(gradient.variable)?, elements(gradient));
            let expected = gradient.range.as_ref().map_or(variable.len, |range| range.len());
            variable.check_gradient(&gradient.values, expected)?;
            variable.check_held(&range)?;
            variable.check_blocks(&range)?;
            let given = match before {
                Some((id, given)) if id == gradient.variable && range.start < given.end => Some(given),
                _ => statistics.first_measured(gradient.variable, &range, variable.len),
            };
            if let Some(given) = given {
                return Err(Error::RepeatedElements { name: variable.name.clone(), range, given });
            }
            before = Some((gradient.variable, range));
        }
        let context = self.step_context(false)?;
        let found = gradients.iter().map(|gradient| (gradient.variable, elements(gradient), gradient.values));
        let tasks = &mut self.scratch.tasks;
        let (operation, host) = (lion_autotune::Operation::Statistics, self.host.as_ref());
        let mut batch = TaskBatch::new(&self.profile, host, operation, tasks, gradients.len());
        context.compute_statistics(found, &self.variables, &self.state, statistics, &mut batch)?;
        Ok(batch.finish(tasks)?)
    }

    /// Begins a step in parts. [`part`](Self::part) does the work and [`finish`](Self::finish) ends it. Hyperparameters,
    /// accumulation, loss scale and clipping are decided here, from the optimizer's state and the given statistics.
    ///
    /// ```
    /// use lion::{BeginOptions, Dtype, Lion, Update};
    ///
    /// let mut optimizer = Lion::builder().learning_rate(0.5).build()?;
    /// let weights = optimizer.register("weights", &[4], Dtype::F32)?;
    /// let mut parameter = [1.0_f32; 4];
    ///
    /// let step = optimizer.begin(BeginOptions::default())?;
    /// let (first, last) = parameter.split_at_mut(1);
    /// optimizer.part(step, &mut [Update::new(weights, last, &[1.0_f32, -1.0, 0.0]).range(1..4)])?;
    /// optimizer.part(step, &mut [Update::new(weights, first, &[2.0_f32]).range(0..1)])?;
    /// optimizer.finish(step)?;
    /// assert_eq!(parameter, [0.5, 0.5, 1.5, 1.0]);
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// A step is open already; statistics are of another step, or missing although clipping by norm or a dynamic loss scale
    /// needs them; a hyperparameter is outside its range. On an error no step has begun.
    pub fn begin(&mut self, options: BeginOptions<'_>) -> Result<StepId, Error> {
        with_ieee_state(|| self.begin_in_ieee_state(options))
    }

    fn begin_in_ieee_state(&mut self, options: BeginOptions<'_>) -> Result<StepId, Error> {
        self.require_no_step()?;
        if let Some(statistics) = options.statistics {
            self.require_current(statistics)?;
        }
        let mut context = self.step_context(options.only_overwrites)?;
        let learning_rate = self.evaluate()?;
        let statistics = match (context.needs_statistics, options.statistics) {
            (false, _) => None,
            (true, Some(statistics)) => Some(statistics.clone()),
            (true, None) => {
                return Err(Error::Statistics {
                    what: "missing".into(),
                    allowed: "given to begin, for a clip by norm or a dynamic loss scale".into(),
                });
            }
        };
        if let Some(statistics) = &statistics {
            let dynamic = self.loss_scale.is_dynamic();
            let measured = &mut self.scratch.measured;
            context.gradients = statistics.summarize(self.clip_mode, dynamic, &self.variables, measured);
            if dynamic && context.gradients.non_finite > 0 {
                context.outcome = Outcome::Skipped;
            }
        }
        let stalls = self.watch.looks_for_stalls(context.outcome, &self.config.learning_rate, learning_rate);
        self.begun += 1;
        let id = StepId(self.begun);
        self.open = Some(OpenStep {
            id,
            number: self.iterations,
            context,
            learning_rate,
            statistics,
            given: Coverage::default(),
            gradients: false,
            trained: false,
            elsewhere: options.elsewhere,
            stalls: stalls.then(|| self.watch.stalls()),
        });
        Ok(id)
    }

    /// Does the step on these variables, or ranges of them, in any order.
    ///
    /// # Errors
    /// The step is not open; a tensor does not match its variable; an element was given before; a gradient has no
    /// statistics although the step needs them. On an error nothing has changed, and the step stays open.
    ///
    /// # Panics
    /// As [`apply`](Self::apply), if a constraint's closure panics.
    pub fn part(&mut self, step: StepId, updates: &mut [Update<'_>]) -> Result<(), Error> {
        with_ieee_state(|| self.part_in_ieee_state(step, updates))
    }

    fn part_in_ieee_state(&mut self, step: StepId, updates: &mut [Update<'_>]) -> Result<(), Error> {
        self.open_step(step)?;
        self.in_registration_order(updates, |optimizer, updates| optimizer.part_in_order(step, updates))
    }

    fn part_in_order(&mut self, step: StepId, updates: &mut [Update<'_>]) -> Result<(), Error> {
        self.check(updates, Completeness::Part)?;
        let open = self.open_step(step)?;
        for update in updates.iter() {
            let (variable, elements) = (&self.variables[update.variable.0], update.elements());
            let again = open.given.has(update.variable) && variable.len == 0;
            if let Some(given) = open.given.overlap(update.variable, &elements).or(again.then_some(0..0)) {
                return Err(Error::RepeatedElements { name: variable.name.clone(), range: elements, given });
            }
            let unexpected = match &open.statistics {
                _ if update.gradient.is_none() => None,
                _ if open.context.outcome == Outcome::Overwritten && !variable.overwritten => {
                    Some("for variables that are overwritten with their gradient only")
                }
                Some(statistics) if !variable.overwritten || self.loss_scale.is_dynamic() => {
                    let measured = &statistics.measured[statistics.places(update.variable, &elements)];
                    measured.contains(&false).then_some("without its statistics")
                }
                _ => None,
            };
            if let Some(begun) = unexpected {
                return Err(Error::UnexpectedGradient { name: variable.name.clone(), begun });
            }
        }
        let context = open.context;
        let open = self.open.as_mut().expect("it has been found above");
        // Recorded before the work: if a closure panics, elements may have been written, and must not be written again.
        for update in updates.iter() {
            open.given.add(update.variable, update.elements());
            open.gradients |= update.gradient.is_some();
            open.trained |= update.gradient.is_some() && !self.variables[update.variable.0].overwritten;
        }
        self.run(&context, updates)?;
        if let Some(stalls) = self.open.as_mut().and_then(|open| open.stalls.as_mut()) {
            stalls.add(&self.variables, &self.scratch.steps, updates);
        }
        Ok(())
    }

    /// Ends and counts the step. Elements that were never given count as elements without a gradient. A step without any
    /// part is not counted.
    ///
    /// # Errors
    /// The step is not open; no part had a gradient; elements are missing although their moving average needs them. On an
    /// error the step stays open.
    pub fn finish(&mut self, step: StepId) -> Result<Metrics, Error> {
        with_ieee_state(|| self.finish_in_ieee_state(step))
    }

    fn finish_in_ieee_state(&mut self, step: StepId) -> Result<Metrics, Error> {
        let mut context = self.check_finish(self.open_step(step)?)?;
        let open = self.open.take().expect("it has been found above");
        if open.given.is_empty() && !open.elsewhere {
            return Ok(Metrics::empty(open.learning_rate, self.loss_scale.factor()));
        }
        if !open.trained && !open.elsewhere && context.outcome != Outcome::Skipped {
            context.outcome = Outcome::Overwritten;
        }
        if context.clears_accumulators(self.cycle) {
            clear_accumulators_beside(open.given.iter(), &self.variables, &mut self.state);
        }
        Ok(self.count(&context, open.learning_rate, open.stalls.as_ref()))
    }

    /// Checks that the step can be finished. Returns its context.
    fn check_finish(&self, open: &OpenStep) -> Result<StepContext, Error> {
        let context = open.context;
        if open.given.is_empty() && !open.elsewhere {
            return Ok(context);
        }
        if !open.gradients && !open.elsewhere {
            return Err(Error::NoGradients);
        }
        let moves_others = self.ema.is_some() || self.cycle.steps.is_some();
        let decided = matches!(context.outcome, Outcome::Skipped | Outcome::Overwritten);
        if !open.trained && !open.elsewhere && moves_others && !decided {
            return Err(Error::OnlyOverwrites);
        }
        if self.ema.is_some() {
            for (index, variable) in self.variables.iter().enumerate().filter(|(_, it)| it.averaged) {
                if let Some(gap) = open.given.gaps(VariableId(index), &variable.held).next() {
                    return Err(variable.missing(gap));
                }
            }
        }
        Ok(context)
    }

    /// Ends the open step, if there is one, without counting it. The next step gets its number. Elements that its parts have
    /// written stay written.
    pub fn abandon(&mut self) -> Option<Abandoned> {
        let open = self.open.take()?;
        Some(Abandoned { step: open.number, written: open.given.iter().collect() })
    }

    /// Returns what the step will do, as decided when it began. If only variables that are overwritten with their
    /// gradient are given, [`finish`](Self::finish) says so.
    ///
    /// # Errors
    /// [`Error::NoStep`] if the step is not open.
    pub fn outcome(&self, step: StepId) -> Result<Outcome, Error> {
        Ok(self.open_step(step)?.context.outcome)
    }

    /// Returns the id of the open step.
    pub fn open_step_id(&self) -> Option<StepId> {
        self.open.as_ref().map(|open| open.id)
    }

    pub(super) fn open_step(&self, step: StepId) -> Result<&OpenStep, Error> {
        self.open.as_ref().filter(|open| open.id == step).ok_or(Error::NoStep)
    }

    pub(crate) fn require_no_step(&self) -> Result<(), Error> {
        match &self.open {
            None => Ok(()),
            Some(open) => Err(Error::OpenStep { step: open.number }),
        }
    }

    fn require_current(&self, statistics: &Statistics) -> Result<(), Error> {
        let variables = statistics.first_blocks.len().saturating_sub(1);
        if (statistics.step, variables) == (self.iterations, self.variables.len()) {
            return Ok(());
        }
        Err(Error::Statistics {
            what: format!("for step {} and {variables} variables", statistics.step),
            allowed: format!("for step {} and {} variables", self.iterations, self.variables.len()),
        })
    }
}
