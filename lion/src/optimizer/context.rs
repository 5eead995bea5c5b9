//! One variable's share of a step: everything between reading its gradient and storing its parameter.

use std::mem;
use std::ops::Range;

use lion_kernels::{
    Backend, Ema, Error as KernelError, GradientStatistics, GradientTransform, LionStep, STATISTICS_BLOCK,
    StepTensors, Task, TensorRef,
};

use super::batch::TaskBatch;
use crate::accumulation::{AccumulationCycle, accumulate_max};
use crate::clip::{ClipMetrics, ClipMode, GradientSummary};
use crate::group::GroupStep;
use crate::state::State;
use crate::statistics::Statistics;
use crate::update::Update;
use crate::variable::{Store, Variable, VariableStateMut, joined};
use crate::{Error, Metrics, Outcome, VariableId};

/// The decisions of a step that hold for all its variables.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepContext {
    pub(super) backend: Backend,
    /// The number of the step, from 0.
    pub(super) number: u64,
    /// Updated, Accumulated or Overwritten; Skipped after the statistics are known.
    pub(super) outcome: Outcome,
    /// Whether the step ends an accumulation cycle; without accumulation every step does.
    pub(super) ends_cycle: bool,
    pub(super) loss_scale: Option<f32>,
    /// Unscales gradients and, in a step that updates, averages them with their accumulators.
    pub(super) gradient: GradientTransform,
    pub(super) clip_mode: ClipMode,
    /// The update of the moving averages; `None` if this step does not update them.
    pub(super) ema: Option<Ema>,
    /// Whether the statistics of all gradients are needed before the update.
    pub(super) needs_statistics: bool,
    pub(super) gradients: GradientSummary,
}

/// Working memory of constraints, kept from step to step.
#[derive(Clone, Debug, Default)]
pub(super) struct ConstraintScratch {
    /// A 16-bit parameter as f32.
    values: Vec<f32>,
    norms: Vec<f64>,
}

impl ConstraintScratch {
    /// Reserves memory for a variable's constraint, so that applying it cannot fail for lack of memory.
    pub(super) fn reserve(&mut self, variable: &Variable, elements: usize) -> Result<(), Error> {
        let Some(constrained) = &variable.constraint else { return Ok(()) };
        let no_memory = |what, elements| Error::OutOfMemory { what, elements };
        self.norms.clear();
        self.norms.try_reserve(constrained.norms).map_err(|_| no_memory("norms", constrained.norms))?;
        if variable.dtype != lion_kernels::Dtype::F32 {
            self.values.clear();
            self.values.try_reserve(elements).map_err(|_| no_memory("constrained values", elements))?;
        }
        Ok(())
    }
}

impl StepContext {
    /// Returns the metrics of the step.
    pub(super) fn metrics(&self, learning_rate: f32) -> Metrics {
        let updated = self.outcome == Outcome::Updated;
        let measured = updated && self.needs_statistics;
        let norms = match self.clip_mode {
            _ if measured => self.gradients.norms(self.clip_mode),
            ClipMode::Off if updated => ClipMetrics { clipped: Some(false), ..ClipMetrics::default() },
            _ => ClipMetrics::default(),
        };
        Metrics {
            outcome: self.outcome,
            gradient_norm: norms.before,
            clipped_norm: norms.after,
            clipped: norms.clipped,
            non_finite: self.needs_statistics.then_some(self.gradients.non_finite),
            ..Metrics::empty(learning_rate, self.loss_scale)
        }
    }

    /// Returns whether the step ends an accumulation cycle, after which every accumulator is zero.
    pub(super) fn clears_accumulators(&self, cycle: AccumulationCycle) -> bool {
        self.outcome == Outcome::Updated && cycle.steps.is_some()
    }

    /// Computes the statistics of gradients. Requires that they are sorted by variable and element, and consist of whole
    /// blocks.
    pub(super) fn compute_statistics<'t>(
        &self,
        gradients: impl Iterator<Item = (VariableId, Range<usize>, TensorRef<'t>)>,
        variables: &[Variable],
        state: &'t State,
        statistics: &'t mut Statistics,
        batch: &mut TaskBatch<'_, 't>,
    ) -> Result<(), Error> {
        let Statistics { first_blocks, blocks, measured, .. } = statistics;
        let (mut rest, mut at) = (&mut blocks[..], 0);
        for (id, range, gradient) in gradients {
            let variable = &variables[id.0];
            variable.check_blocks(&range)?;
            let first = first_blocks[id.0];
            let places = first + range.start / STATISTICS_BLOCK..first + range.end.div_ceil(STATISTICS_BLOCK);
            let (own, after) =
                mem::take(&mut rest).split_at_mut(places.start - at).1.split_at_mut(places.len());
            (rest, at) = (after, places.end);
            measured[places].fill(true);
            let accumulator =
                state.accumulator(id, variable).map(|values| &values[variable.within_held(&range)]);
            let queued =
                self.statistics_task(variable, gradient, accumulator, own).and_then(|task| batch.push(task));
            queued.map_err(|source| variable.error(source))?;
        }
        Ok(())
    }

    /// Returns the task that computes the statistics of each block of a variable's gradient, as this step uses it.
    pub(super) fn statistics_task<'t>(
        &self,
        variable: &Variable,
        gradient: TensorRef<'t>,
        accumulator: Option<&'t [f32]>,
        blocks: &'t mut [GradientStatistics],
    ) -> Result<Task<'t>, KernelError> {
        if variable.overwritten || self.outcome != Outcome::Updated {
            return Task::statistics(&GradientTransform::new(), gradient, None, blocks);
        }
        Task::statistics(&self.gradient, gradient, accumulator, blocks)
    }

    /// Updates one variable, or adds the task that does so to the batch. `measured` has the statistics of its gradient, if
    /// the step needs them.
    pub(super) fn update_variable<'t>(
        &self,
        variable: &Variable,
        mut state: VariableStateMut<'t>,
        update: &'t mut Update<'_>,
        steps: &GroupStep,
        measured: Option<&GradientStatistics>,
        batch: &mut TaskBatch<'_, 't>,
    ) -> Result<(), KernelError> {
        match update.gradient {
            Some(gradient) if variable.overwritten => self.overwrite(state, update, gradient),
            Some(gradient) if self.outcome == Outcome::Updated => {
                let copies = self.copies(variable, update);
                let step = self.step_of(variable, steps).gradient(self.gradient_of(measured)?);
                self.step(step, state, update, gradient, copies, batch)
            }
            // The step accumulates, or only overwrites other variables.
            Some(gradient) => {
                if let Some(accumulator) = state.accumulator.take() {
                    batch.push(Task::accumulate(&self.gradient, accumulator, gradient)?)?;
                }
                self.average(state, update, batch)
            }
            None => {
                if self.outcome == Outcome::Updated {
                    state.clear_accumulator();
                }
                self.average(state, update, batch)
            }
        }
    }

    /// Returns a variable's step, before the transforms of its gradient.
    pub(super) fn step_of(&self, variable: &Variable, steps: &GroupStep) -> LionStep {
        let step = if variable.decays { steps.decaying } else { steps.plain };
        match variable.store {
            Store::Stochastic(key) => step.stochastic_rounding(key.at_step(self.number)),
            Store::Nearest | Store::Split => step,
        }
    }

    /// Returns whether the update's own task writes its copy. With a constraint the copy is deferred, as it holds the final
    /// parameter.
    pub(super) fn copies(&self, variable: &Variable, update: &Update<'_>) -> bool {
        let steps = update.gradient.is_some() && !variable.overwritten && self.outcome == Outcome::Updated;
        steps && variable.constraint.is_none()
    }

    /// Returns the transform of a gradient with these statistics.
    fn gradient_of(&self, measured: Option<&GradientStatistics>) -> Result<GradientTransform, KernelError> {
        match self.clip_mode.own(measured).or(self.gradients.clip) {
            Some(clip) => self.gradient.clip(clip),
            None => Ok(self.gradient),
        }
    }

    /// Adds the task that does unscaling, averaging, clipping, decay, step and moving average in one pass.
    fn step<'t>(
        &self,
        mut step: LionStep,
        state: VariableStateMut<'t>,
        update: &'t mut Update<'_>,
        gradient: TensorRef<'t>,
        copies: bool,
        batch: &mut TaskBatch<'_, 't>,
    ) -> Result<(), KernelError> {
        let momentum = state.momentum.expect("only overwritten variables have no momentum");
        let (start, mut source) = (update.start() as u64, update.source);
        if state.low.is_some() {
            // The low halves are updated in place, so the high halves must be too.
            update.copy_source();
            source = None;
        }
        let parameter = joined(update.parameter.reborrow(), state.low)?;
        let mut tensors = match source {
            Some(source) => StepTensors::out_of_place(source, parameter, gradient, momentum),
            None => StepTensors::in_place(parameter, gradient, momentum),
        };
        if let Some(accumulator) = state.accumulator {
            tensors = tensors.accumulator(accumulator);
        }
        if let (Some(ema), Some(average)) = (self.ema, state.ema) {
            step = step.ema(ema);
            tensors = tensors.ema(average);
        }
        if let (true, Some(copy)) = (copies, &mut update.copy) {
            tensors = tensors.copy(copy.reborrow());
        }
        if let Some(direction) = &mut update.direction {
            tensors = tensors.direction(direction.reborrow());
        }
        let task = Task::step(step, tensors)?;
        batch.push(if step.is_stochastic() { task.starting_at(start)? } else { task })
    }

    /// Overwrites the parameter with the gradient, at the end of an accumulation cycle.
    fn overwrite(
        &self,
        state: VariableStateMut<'_>,
        update: &mut Update<'_>,
        gradient: TensorRef<'_>,
    ) -> Result<(), KernelError> {
        let Some(accumulator) = state.accumulator else {
            let parameter = joined(update.parameter.reborrow(), state.low)?;
            return Task::convert(gradient, parameter)?.run(self.backend);
        };
        accumulate_max(accumulator, gradient);
        if !self.ends_cycle {
            update.copy_source();
            return Ok(());
        }
        let parameter = joined(update.parameter.reborrow(), state.low)?;
        Task::convert(&accumulator[..], parameter)?.run(self.backend)?;
        accumulator.fill(0.0);
        Ok(())
    }

    /// Keeps the parameter, and adds the task that updates its moving average.
    fn average<'t>(
        &self,
        state: VariableStateMut<'t>,
        update: &'t mut Update<'_>,
        batch: &mut TaskBatch<'_, 't>,
    ) -> Result<(), KernelError> {
        update.copy_source();
        if let (Some(ema), Some(average)) = (&self.ema, state.ema) {
            batch.push(Task::update_ema(ema, average, joined(update.parameter.reborrow(), state.low)?)?)?;
        }
        Ok(())
    }

    /// Applies the variable's constraint. Requires that [`ConstraintScratch::reserve`] has reserved its memory.
    pub(super) fn constrain(
        &self,
        variable: &Variable,
        update: &mut Update<'_>,
        low: Option<&mut [i16]>,
        scratch: &mut ConstraintScratch,
    ) -> Result<(), Error> {
        let Some(constrained) = &variable.constraint else { return Ok(()) };
        let constraint = &constrained.constraint;
        let part = [update.parameter.len()];
        let whole = update.parameter.len() == variable.len;
        let shape = if whole { &variable.shape } else { &part[..] };
        if let Some(values) = update.parameter.as_slice_mut::<f32>() {
            return constraint.apply_with(shape, values, &mut scratch.norms);
        }
        let of_variable = |source| variable.error(source);
        let mut parameter = joined(update.parameter.reborrow(), low).map_err(of_variable)?;
        scratch.values.clear();
        scratch.values.resize(parameter.len(), 0.0);
        let widen = Task::convert(parameter.to_ref(), &mut scratch.values[..]);
        widen.and_then(|mut task| task.run(self.backend)).map_err(of_variable)?;
        constraint.apply_with(shape, &mut scratch.values, &mut scratch.norms)?;
        let round = Task::convert(&scratch.values[..], parameter.reborrow());
        round.and_then(|mut task| task.run(self.backend)).map_err(of_variable)
    }
}
