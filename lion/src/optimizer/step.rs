//! A step in parts: begun, given by variables or ranges of variables, and finished.
//!
//! What one call of [`Lion::apply`] decides for all its variables (hyperparameters, what accumulation and the loss scale
//! do, how gradients are clipped) is decided when the step begins, so that each part can be done as soon as its
//! gradient is there, and its gradient be freed. Any cut into parts gives the bits of one call.

use std::ops::Range;

use lion_kernels::with_ieee_state;

use super::Lion;
use super::call::Call;
use super::check::Completeness;
use super::passes::clear_accumulators_beside;
use super::queue::Queue;
use crate::coverage::Coverage;
use crate::statistics::{Gradient, Statistics};
use crate::watch::Stalls;
use crate::{Error, Metrics, Outcome, Update, VariableId};

/// A step that [`Lion::begin`] has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "the optimizer refuses other calls until the step is finished or abandoned"]
pub struct StepId(u64);

/// How a step begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct BeginOptions<'a> {
    /// The statistics of all gradients of the step, which clipping by a norm and a dynamic loss scale need before the
    /// first part.
    pub statistics: Option<&'a Statistics>,
    /// Only variables that are overwritten with their gradient will have one: then averages and accumulators of the
    /// others do not move, as in a call of [`Lion::apply`] of this kind.
    pub only_overwrites: bool,
    /// Other optimizers hold other shards of the variables, and may have the gradients of the step: it counts also if none
    /// is given here.
    pub elsewhere: bool,
}

/// What [`Lion::abandon`] gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Abandoned {
    /// The number of the call, which the next step will have.
    pub call: u64,
    /// The elements that parts of the step have written, in order: they and their state are as after the step.
    pub written: Vec<(VariableId, Range<usize>)>,
}

/// What is known of a step until it is finished.
#[derive(Clone, Debug)]
pub(super) struct OpenStep {
    id: StepId,
    number: u64,
    pub(super) call: Call,
    learning_rate: f32,
    /// Which blocks had a gradient when the step began, if it looked ahead.
    statistics: Option<Statistics>,
    given: Coverage,
    /// Whether any part had a gradient, and one that trains its variable.
    gradients: bool,
    trained: bool,
    elsewhere: bool,
    /// Whether the step looks for variables that stall, and those found so far.
    stalls: Option<Stalls>,
}

impl Lion {
    /// No statistics yet, for the next step.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn statistics(&self) -> Result<Statistics, Error> {
        let mut statistics = Statistics::default();
        statistics.reset(self.iterations, &self.variables)?;
        Ok(statistics)
    }

    /// Adds the statistics of these gradients, as the next step will use them: divided by the loss scale, and averaged
    /// with what has been accumulated. The gradients are put in order.
    ///
    /// # Errors
    /// Gradients that do not fit their variables, ranges that cut a block of 4,096 elements, blocks that have been
    /// measured before, statistics of another step. Nothing has been added then.
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
        let call = self.call(false)?;
        let found = gradients.iter().map(|gradient| (gradient.variable, elements(gradient), gradient.values));
        let tasks = &mut self.scratch.tasks;
        let (operation, host) = (lion_autotune::Operation::Statistics, self.host.as_ref());
        let mut queue = Queue::new(&self.profile, host, operation, tasks, gradients.len());
        call.measure_all(found, &self.variables, &self.memory, statistics, &mut queue)?;
        Ok(queue.finish(tasks)?)
    }

    /// Begins a step, which [`part`](Self::part)s follow and [`finish`](Self::finish) ends. Hyperparameters, accumulation,
    /// loss scale and clipping are decided here, from what the optimizer knows and the statistics that are handed in.
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
    /// A step that is open; statistics that are missing where a norm or a dynamic loss scale needs them, or of another
    /// step; a hyperparameter outside its range. Nothing has begun then.
    pub fn begin(&mut self, options: BeginOptions<'_>) -> Result<StepId, Error> {
        with_ieee_state(|| self.begin_in_ieee_state(options))
    }

    fn begin_in_ieee_state(&mut self, options: BeginOptions<'_>) -> Result<StepId, Error> {
        self.require_no_step()?;
        if let Some(statistics) = options.statistics {
            self.require_current(statistics)?;
        }
        let mut call = self.call(options.only_overwrites)?;
        let learning_rate = self.evaluate()?;
        let statistics = match (call.looks_ahead, options.statistics) {
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
            call.found = statistics.summarize(self.clipping, dynamic, &self.variables, measured);
            if dynamic && call.found.non_finite > 0 {
                call.outcome = Outcome::Skipped;
            }
        }
        let stalls = self.watch.looks_for_stalls(call.outcome, &self.config.learning_rate, learning_rate);
        self.begun += 1;
        let id = StepId(self.begun);
        self.open = Some(OpenStep {
            id,
            number: self.iterations,
            call,
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

    /// Does the step on these variables, or on ranges of them, in any order.
    ///
    /// # Errors
    /// A step that is not open; tensors that do not fit; elements that are given twice; a gradient that was not measured
    /// when the step needed it. Nothing has been changed then, and the step is still open.
    ///
    /// # Panics
    /// As [`apply`](Self::apply), where a constraint's closure does.
    pub fn part(&mut self, step: StepId, updates: &mut [Update<'_>]) -> Result<(), Error> {
        with_ieee_state(|| self.part_in_ieee_state(step, updates))
    }

    fn part_in_ieee_state(&mut self, step: StepId, updates: &mut [Update<'_>]) -> Result<(), Error> {
        self.open_step(step)?;
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
                _ if open.call.outcome == Outcome::Overwritten && !variable.overwritten => {
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
        let call = open.call;
        let open = self.open.as_mut().expect("it has been found above");
        // Before the work: if a closure panics, the elements may have been written, and must not be again.
        for update in updates.iter() {
            open.given.add(update.variable, update.elements());
            open.gradients |= update.gradient.is_some();
            open.trained |= update.gradient.is_some() && !self.variables[update.variable.0].overwritten;
        }
        self.run(&call, updates)?;
        if let Some(stalls) = self.open.as_mut().and_then(|open| open.stalls.as_mut()) {
            stalls.add(&self.variables, &self.scratch.steps, updates);
        }
        Ok(())
    }

    /// Ends the step, and counts it. Elements that were never given count as ones without a gradient; a step that was
    /// given none is no step, and is not counted.
    ///
    /// # Errors
    /// A step that is not open; no gradient in any part; elements left out that a moving average needs. The step is still
    /// open then.
    pub fn finish(&mut self, step: StepId) -> Result<Metrics, Error> {
        with_ieee_state(|| self.finish_in_ieee_state(step))
    }

    fn finish_in_ieee_state(&mut self, step: StepId) -> Result<Metrics, Error> {
        let mut call = self.check_finish(self.open_step(step)?)?;
        let open = self.open.take().expect("it has been found above");
        if open.given.is_empty() && !open.elsewhere {
            return Ok(Metrics::of_nothing(open.learning_rate, self.loss_scale.factor()));
        }
        if !open.trained && !open.elsewhere && call.outcome != Outcome::Skipped {
            call.outcome = Outcome::Overwritten;
        }
        if call.clears_accumulators(self.window) {
            clear_accumulators_beside(open.given.iter(), &self.variables, &mut self.memory);
        }
        Ok(self.count(&call, open.learning_rate, open.stalls.as_ref()))
    }

    /// Whether the step can be finished. Gives its call.
    fn check_finish(&self, open: &OpenStep) -> Result<Call, Error> {
        let call = open.call;
        if open.given.is_empty() && !open.elsewhere {
            return Ok(call);
        }
        if !open.gradients && !open.elsewhere {
            return Err(Error::NoGradients);
        }
        let moves_others = self.averaging.is_some() || self.window.calls.is_some();
        let decided = matches!(call.outcome, Outcome::Skipped | Outcome::Overwritten);
        if !open.trained && !open.elsewhere && moves_others && !decided {
            return Err(Error::OnlyOverwrites);
        }
        if self.averaging.is_some() {
            for (index, variable) in self.variables.iter().enumerate().filter(|(_, it)| it.averaged) {
                if let Some(gap) = open.given.gaps(VariableId(index), &variable.held).next() {
                    return Err(variable.missing(gap));
                }
            }
        }
        Ok(call)
    }

    /// Gives up the step that has begun, if there is one: the next step will have its number. What its parts have written
    /// stays written.
    pub fn abandon(&mut self) -> Option<Abandoned> {
        let open = self.open.take()?;
        Some(Abandoned { call: open.number, written: open.given.iter().collect() })
    }

    /// What the step will do, as it was decided when the step began. If only variables that are overwritten with their
    /// gradient are given, [`finish`](Self::finish) says so.
    ///
    /// # Errors
    /// A step that is not open.
    pub fn outcome(&self, step: StepId) -> Result<Outcome, Error> {
        Ok(self.open_step(step)?.call.outcome)
    }

    /// The step that has begun and is neither finished nor abandoned.
    pub fn open_step_id(&self) -> Option<StepId> {
        self.open.as_ref().map(|open| open.id)
    }

    pub(super) fn open_step(&self, step: StepId) -> Result<&OpenStep, Error> {
        self.open.as_ref().filter(|open| open.id == step).ok_or(Error::NoStep)
    }

    pub(crate) fn require_no_step(&self) -> Result<(), Error> {
        match &self.open {
            None => Ok(()),
            Some(open) => Err(Error::OpenStep { call: open.number }),
        }
    }

    fn require_current(&self, statistics: &Statistics) -> Result<(), Error> {
        let variables = statistics.first_blocks.len().saturating_sub(1);
        if (statistics.call, variables) == (self.iterations, self.variables.len()) {
            return Ok(());
        }
        Err(Error::Statistics {
            what: format!("for call {} and {variables} variables", statistics.call),
            allowed: format!("for call {} and {} variables", self.iterations, self.variables.len()),
        })
    }
}
