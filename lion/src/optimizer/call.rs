//! What a call does to one variable: everything between reading its gradient and storing its parameter.

use lion_kernels::{
    Backend, Ema, Error as KernelError, Gradient, Slice, SliceMut, Statistics, Step, Tensors, accumulate,
    average, convert, statistics,
};

use crate::accumulation::raise;
use crate::clip::{Clipping, Found};
use crate::group::Steps;
use crate::update::Update;
use crate::variable::Variable;
use crate::{Error, Outcome};

/// A call, as its number and the settings decide it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) backend: Backend,
    /// Updated, Accumulated or Overwritten.
    pub(super) outcome: Outcome,
    /// Whether it ends a window of accumulation; without accumulation every call does.
    pub(super) ends_window: bool,
    /// How gradients are unscaled and, in a call that updates, averaged with their accumulators.
    pub(super) gradient: Gradient,
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
    pub(super) fn reserve(&mut self, variable: &Variable) -> Result<(), Error> {
        let Some(constrained) = &variable.constraint else { return Ok(()) };
        let no_memory = |what, elements| Error::OutOfMemory { what, elements };
        self.norms.clear();
        self.norms.try_reserve(constrained.norms).map_err(|_| no_memory("norms", constrained.norms))?;
        if variable.dtype != lion_kernels::Dtype::F32 {
            self.values.clear();
            self.values
                .try_reserve(variable.len)
                .map_err(|_| no_memory("constrained values", variable.len))?;
        }
        Ok(())
    }
}

impl Call {
    /// The statistics of a variable's gradient as this call uses it.
    pub(super) fn measure(
        &self,
        variable: &Variable,
        gradient: Slice<'_>,
    ) -> Result<Statistics, KernelError> {
        if variable.overwritten || self.outcome != Outcome::Updated {
            return statistics(self.backend, &Gradient::new(), gradient, None);
        }
        statistics(self.backend, &self.gradient, gradient, variable.accumulator.as_deref())
    }

    /// Does the call's work on one variable that it names. `measured` are the statistics of its gradient, in a call
    /// that looks ahead.
    pub(super) fn visit(
        &mut self,
        variable: &mut Variable,
        update: &mut Update<'_>,
        steps: &Steps,
        measured: Option<&Statistics>,
        room: &mut Room,
    ) -> Result<(), Error> {
        let gradient = update.gradient;
        let mut copied = false;
        let done = match gradient {
            Some(gradient) if variable.overwritten => self.overwrite(variable, update, gradient),
            Some(gradient) if self.outcome == Outcome::Updated => {
                copied = variable.constraint.is_none();
                self.step(variable, update, gradient, steps, measured)
            }
            Some(gradient) if self.outcome == Outcome::Accumulated => {
                self.accumulate(variable, update, gradient)
            }
            _ => self.pass_over(variable, update),
        };
        done.map_err(|source| variable.error(source))?;
        if gradient.is_some() && !variable.overwritten {
            self.constrain(variable, update, room)?;
        }
        if !copied {
            update.refresh_copy(self.backend).map_err(|source| variable.error(source))?;
        }
        Ok(())
    }

    /// Unscaling, averaging, clipping, decay, step and moving average in one pass.
    fn step(
        &mut self,
        variable: &mut Variable,
        update: &mut Update<'_>,
        gradient: Slice<'_>,
        steps: &Steps,
        measured: Option<&Statistics>,
    ) -> Result<(), KernelError> {
        let mut settings = self.gradient;
        let own = match (measured, self.clipping) {
            (Some(measured), _) => *measured,
            (None, Clipping::Norm(_)) => {
                let measured = self.measure(variable, gradient)?;
                self.found.add(self.clipping, &measured);
                measured
            }
            (None, _) => Statistics::default(),
        };
        if let Some(clip) = self.clipping.of(&own, &self.found.all) {
            settings = settings.clip(clip)?;
        }
        let mut step: Step = if variable.decays { steps.decaying } else { steps.plain }.gradient(settings);

        let Some(momentum) = &mut variable.momentum else { return Ok(()) };
        let (parameter, momentum) = (update.parameter.reborrow(), momentum.as_slice_mut());
        let mut tensors = match update.source {
            Some(source) => Tensors::out_of_place(source, parameter, gradient, momentum),
            None => Tensors::in_place(parameter, gradient, momentum),
        };
        if let Some(accumulator) = &mut variable.accumulator {
            tensors = tensors.accumulator(accumulator);
        }
        if let (Some(ema), Some(average)) = (self.ema, &mut variable.ema) {
            step = step.ema(ema);
            tensors = tensors.ema(average);
        }
        if let (None, Some(copy)) = (&variable.constraint, &mut update.copy) {
            tensors = tensors.copy(copy.reborrow());
        }
        step.apply(self.backend, tensors)
    }

    /// Adds the gradient to its accumulator, and leaves the parameter to the moving average.
    fn accumulate(
        &self,
        variable: &mut Variable,
        update: &mut Update<'_>,
        gradient: Slice<'_>,
    ) -> Result<(), KernelError> {
        if let Some(accumulator) = &mut variable.accumulator {
            accumulate(self.backend, &self.gradient, accumulator, gradient)?;
        }
        update.keep();
        self.average(variable, update)
    }

    /// Makes the gradient the parameter's value, at the end of a window.
    fn overwrite(
        &self,
        variable: &mut Variable,
        update: &mut Update<'_>,
        gradient: Slice<'_>,
    ) -> Result<(), KernelError> {
        let Some(accumulator) = &mut variable.accumulator else {
            return convert(self.backend, gradient, update.parameter.reborrow());
        };
        raise(accumulator, gradient);
        if !self.ends_window {
            update.keep();
            return Ok(());
        }
        convert(self.backend, &accumulator[..], update.parameter.reborrow())?;
        accumulator.fill(0.0);
        Ok(())
    }

    /// A variable without a gradient: its parameter is averaged, its accumulator cleared, like any other's.
    fn pass_over(&self, variable: &mut Variable, update: &mut Update<'_>) -> Result<(), KernelError> {
        update.keep();
        if self.outcome == Outcome::Updated {
            variable.clear_accumulator();
        }
        self.average(variable, update)
    }

    fn average(&self, variable: &mut Variable, update: &mut Update<'_>) -> Result<(), KernelError> {
        match (&self.ema, &mut variable.ema) {
            (Some(ema), Some(values)) => average(self.backend, ema, values, update.parameter.reborrow()),
            _ => Ok(()),
        }
    }

    /// There is room for it, see [`Room::reserve`].
    fn constrain(&self, variable: &Variable, update: &mut Update<'_>, room: &mut Room) -> Result<(), Error> {
        let Some(constrained) = &variable.constraint else { return Ok(()) };
        let constraint = &constrained.constraint;
        if let SliceMut::F32(values) = &mut update.parameter {
            return constraint.apply_with(&variable.shape, values, &mut room.norms);
        }
        let of_variable = |source| variable.error(source);
        room.values.clear();
        room.values.resize(variable.len, 0.0);
        convert(self.backend, update.parameter.as_slice(), &mut room.values[..]).map_err(of_variable)?;
        constraint.apply_with(&variable.shape, &mut room.values, &mut room.norms)?;
        convert(self.backend, &room.values[..], update.parameter.reborrow()).map_err(of_variable)
    }
}
