//! What a call does to one variable: everything between reading its gradient and storing its parameter.

use std::mem;
use std::ops::Range;

use lion_kernels::{
    BLOCK, Backend, Ema, Error as KernelError, GradientStatistics, GradientTransform, LionStep, StepTensors,
    Task, TensorRef,
};

use super::queue::Queue;
use crate::accumulation::{Window, accumulate_max};
use crate::clip::{Clipping, Found, Norms};
use crate::group::Steps;
use crate::memory::Memory;
use crate::statistics::Statistics;
use crate::update::Update;
use crate::variable::{StateMut, Store, Variable, joined};
use crate::{Error, Metrics, Outcome, VariableId};

/// A call, as its number and the settings decide it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) backend: Backend,
    /// Its number, from 0.
    pub(super) number: u64,
    /// Updated, Accumulated or Overwritten.
    pub(super) outcome: Outcome,
    /// Whether it ends a window of accumulation; without accumulation every call does.
    pub(super) ends_window: bool,
    pub(super) loss_scale: Option<f32>,
    /// How gradients are unscaled and, in a call that updates, averaged with their accumulators.
    pub(super) gradient: GradientTransform,
    pub(super) clipping: Clipping,
    /// How averages move, where they do in this call.
    pub(super) ema: Option<Ema>,
    /// Whether gradients must be known before any of them is used.
    pub(super) looks_ahead: bool,
    pub(super) found: Found,
}

/// Memory that constraints work in, kept from call to call.
#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    /// A 16-bit parameter as f32.
    values: Vec<f32>,
    norms: Vec<f64>,
}

impl Room {
    /// Makes room for a variable's constraint, so that it cannot fail for want of memory.
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

impl Call {
    /// What the call did.
    pub(super) fn metrics(&self, learning_rate: f32) -> Metrics {
        let updated = self.outcome == Outcome::Updated;
        let measured = updated && self.looks_ahead;
        let norms = match self.clipping {
            _ if measured => self.found.norms(self.clipping),
            Clipping::Off if updated => Norms { clipped: Some(false), ..Norms::default() },
            _ => Norms::default(),
        };
        Metrics {
            outcome: self.outcome,
            gradient_norm: norms.before,
            clipped_norm: norms.after,
            clipped: norms.clipped,
            non_finite: self.looks_ahead.then_some(self.found.non_finite),
            ..Metrics::of_nothing(learning_rate, self.loss_scale)
        }
    }

    /// Whether it ends a window of accumulation, after which every accumulator is zero.
    pub(super) fn clears_accumulators(&self, window: Window) -> bool {
        self.outcome == Outcome::Updated && window.calls.is_some()
    }

    /// The statistics of gradients, in the order of registration and of elements, each of whole blocks.
    pub(super) fn measure_all<'t>(
        &self,
        gradients: impl Iterator<Item = (VariableId, Range<usize>, TensorRef<'t>)>,
        variables: &[Variable],
        memory: &'t Memory,
        statistics: &'t mut Statistics,
        queue: &mut Queue<'_, 't>,
    ) -> Result<(), Error> {
        let Statistics { first_blocks, blocks, measured, .. } = statistics;
        let (mut rest, mut at) = (&mut blocks[..], 0);
        for (id, range, gradient) in gradients {
            let variable = &variables[id.0];
            variable.check_blocks(&range)?;
            let first = first_blocks[id.0];
            let places = first + range.start / BLOCK..first + range.end.div_ceil(BLOCK);
            let (own, after) =
                mem::take(&mut rest).split_at_mut(places.start - at).1.split_at_mut(places.len());
            (rest, at) = (after, places.end);
            measured[places].fill(true);
            let accumulator =
                memory.accumulator(id, variable).map(|values| &values[variable.within_held(&range)]);
            let queued = self.measure(variable, gradient, accumulator, own).and_then(|task| queue.push(task));
            queued.map_err(|source| variable.error(source))?;
        }
        Ok(())
    }

    /// The statistics of each block of a variable's gradient as this call uses it.
    pub(super) fn measure<'t>(
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

    /// Does the call's work on one variable that it names, or queues it. `measured` are the statistics of
    /// its gradient, in a call that looks ahead.
    pub(super) fn visit<'t>(
        &self,
        variable: &Variable,
        mut state: StateMut<'t>,
        update: &'t mut Update<'_>,
        steps: &Steps,
        measured: Option<&GradientStatistics>,
        queue: &mut Queue<'_, 't>,
    ) -> Result<(), KernelError> {
        match update.gradient {
            Some(gradient) if variable.overwritten => self.overwrite(state, update, gradient),
            Some(gradient) if self.outcome == Outcome::Updated => {
                let copies = self.copies(variable, update);
                let step = self.step_of(variable, steps).gradient(self.gradient_of(measured)?);
                self.step(step, state, update, gradient, copies, queue)
            }
            // A call with another outcome has come to none of these.
            Some(gradient) => {
                if let Some(accumulator) = state.accumulator.take() {
                    queue.push(Task::accumulate(&self.gradient, accumulator, gradient)?)?;
                }
                self.average(state, update, queue)
            }
            None => {
                if self.outcome == Outcome::Updated {
                    state.clear_accumulator();
                }
                self.average(state, update, queue)
            }
        }
    }

    /// A variable's step, before the transforms of its gradient.
    pub(super) fn step_of(&self, variable: &Variable, steps: &Steps) -> LionStep {
        let step = if variable.decays { steps.decaying } else { steps.plain };
        match variable.store {
            Store::Stochastic(key) => step.stochastic_rounding(key.in_call(self.number)),
            Store::Nearest | Store::Split => step,
        }
    }

    /// Whether the step makes the update's copy, which is of the parameter as the call leaves it.
    pub(super) fn copies(&self, variable: &Variable, update: &Update<'_>) -> bool {
        let steps = update.gradient.is_some() && !variable.overwritten && self.outcome == Outcome::Updated;
        steps && variable.constraint.is_none()
    }

    /// What becomes of a gradient with these statistics.
    fn gradient_of(&self, measured: Option<&GradientStatistics>) -> Result<GradientTransform, KernelError> {
        match self.clipping.own(measured).or(self.found.clip) {
            Some(clip) => self.gradient.clip(clip),
            None => Ok(self.gradient),
        }
    }

    /// Unscaling, averaging, clipping, decay, step and moving average in one pass.
    fn step<'t>(
        &self,
        mut step: LionStep,
        state: StateMut<'t>,
        update: &'t mut Update<'_>,
        gradient: TensorRef<'t>,
        copies: bool,
        queue: &mut Queue<'_, 't>,
    ) -> Result<(), KernelError> {
        let momentum = state.momentum.expect("only overwritten variables have no momentum");
        let (start, mut source) = (update.start() as u64, update.source);
        if state.low.is_some() {
            // The low halves are read and written in one place, and so are the high ones.
            update.keep();
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
        queue.push(if step.is_stochastic() { task.starting_at(start)? } else { task })
    }

    /// Makes the gradient the parameter's value, at the end of a window.
    fn overwrite(
        &self,
        state: StateMut<'_>,
        update: &mut Update<'_>,
        gradient: TensorRef<'_>,
    ) -> Result<(), KernelError> {
        let Some(accumulator) = state.accumulator else {
            let parameter = joined(update.parameter.reborrow(), state.low)?;
            return Task::convert(gradient, parameter)?.run(self.backend);
        };
        accumulate_max(accumulator, gradient);
        if !self.ends_window {
            update.keep();
            return Ok(());
        }
        let parameter = joined(update.parameter.reborrow(), state.low)?;
        Task::convert(&accumulator[..], parameter)?.run(self.backend)?;
        accumulator.fill(0.0);
        Ok(())
    }

    /// Leaves a parameter as it is, to its moving average.
    fn average<'t>(
        &self,
        state: StateMut<'t>,
        update: &'t mut Update<'_>,
        queue: &mut Queue<'_, 't>,
    ) -> Result<(), KernelError> {
        update.keep();
        if let (Some(ema), Some(average)) = (&self.ema, state.ema) {
            queue.push(Task::update_ema(ema, average, joined(update.parameter.reborrow(), state.low)?)?)?;
        }
        Ok(())
    }

    /// There is room for it, see [`Room::reserve`].
    pub(super) fn constrain(
        &self,
        variable: &Variable,
        update: &mut Update<'_>,
        low: Option<&mut [i16]>,
        room: &mut Room,
    ) -> Result<(), Error> {
        let Some(constrained) = &variable.constraint else { return Ok(()) };
        let constraint = &constrained.constraint;
        let part = [update.parameter.len()];
        let whole = update.parameter.len() == variable.len;
        let shape = if whole { &variable.shape } else { &part[..] };
        if let Some(values) = update.parameter.as_slice_mut::<f32>() {
            return constraint.apply_with(shape, values, &mut room.norms);
        }
        let of_variable = |source| variable.error(source);
        let mut parameter = joined(update.parameter.reborrow(), low).map_err(of_variable)?;
        room.values.clear();
        room.values.resize(parameter.len(), 0.0);
        let widen = Task::convert(parameter.to_ref(), &mut room.values[..]);
        widen.and_then(|mut task| task.run(self.backend)).map_err(of_variable)?;
        constraint.apply_with(shape, &mut room.values, &mut room.norms)?;
        let round = Task::convert(&room.values[..], parameter.reborrow());
        round.and_then(|mut task| task.run(self.backend)).map_err(of_variable)
    }
}
