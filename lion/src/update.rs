//! `Update`: one variable's parameter and gradient, passed to `apply`.

use std::ops::Range;

use lion_kernels::{Task, TensorMut, TensorRef};

use crate::variable::{Variable, joined};
use crate::{Error, VariableId};

/// A variable's tensors in one step: the parameter, which the step updates, and its gradient, in any float dtype.
///
/// ```
/// use half::bf16;
/// use lion::{Dtype, Lion, Update};
///
/// let mut optimizer = Lion::builder().learning_rate(0.25).build()?;
/// let weights = optimizer.register("weights", &[2], Dtype::F32)?;
///
/// // Reads one tensor and writes another, with a bf16 copy for the next forward pass.
/// let (before, mut after, mut working) = ([1.0_f32, 2.0], [0.0_f32; 2], [bf16::ZERO; 2]);
/// let gradient = [bf16::ONE, bf16::NEG_ONE];
/// let update = Update::out_of_place(weights, &before[..], &mut after[..], &gradient[..]);
/// optimizer.apply(&mut [update.copy(&mut working[..])])?;
/// assert_eq!((after, working), ([0.75, 2.25], [bf16::from_f32(0.75), bf16::from_f32(2.25)]));
/// # Ok::<(), lion::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Update<'a> {
    pub(crate) variable: VariableId,
    /// The range of the variable's elements; `None` means all.
    pub(crate) range: Option<Range<usize>>,
    pub(crate) source: Option<TensorRef<'a>>,
    pub(crate) parameter: TensorMut<'a>,
    pub(crate) gradient: Option<TensorRef<'a>>,
    pub(crate) copy: Option<TensorMut<'a>>,
    pub(crate) direction: Option<TensorMut<'a>>,
}

impl<'a> Update<'a> {
    /// Updates `parameter` in place.
    pub fn new(
        variable: VariableId,
        parameter: impl Into<TensorMut<'a>>,
        gradient: impl Into<TensorRef<'a>>,
    ) -> Self {
        Update { gradient: Some(gradient.into()), ..Self::without_gradient(variable, parameter) }
    }

    /// Reads the parameter from `source` and writes it to `parameter`, of the same dtype, in every step, also in one that
    /// does not change it.
    pub fn out_of_place(
        variable: VariableId,
        source: impl Into<TensorRef<'a>>,
        parameter: impl Into<TensorMut<'a>>,
        gradient: impl Into<TensorRef<'a>>,
    ) -> Self {
        Update::new(variable, parameter, gradient).source(source)
    }

    /// Names a variable without a gradient in this step. Only its moving average is updated.
    pub fn without_gradient(variable: VariableId, parameter: impl Into<TensorMut<'a>>) -> Self {
        Update {
            variable,
            range: None,
            source: None,
            parameter: parameter.into(),
            gradient: None,
            copy: None,
            direction: None,
        }
    }

    /// Sets everything at once, for bindings to other languages.
    #[inline]
    pub fn from_tensors(
        variable: VariableId,
        range: Option<Range<usize>>,
        source: Option<TensorRef<'a>>,
        parameter: TensorMut<'a>,
        gradient: Option<TensorRef<'a>>,
        copy: Option<TensorMut<'a>>,
    ) -> Self {
        Update { variable, range, source, parameter, gradient, copy, direction: None }
    }

    /// Declares that the tensors are a range of the variable's elements, in row-major order.
    pub fn range(self, range: Range<usize>) -> Self {
        Update { range: Some(range), ..self }
    }

    /// Reads the parameter from `source` instead of from the tensor that is written.
    pub fn source(self, source: impl Into<TensorRef<'a>>) -> Self {
        Update { source: Some(source.into()), ..self }
    }

    /// Also writes the stored parameter to `copy`, in any dtype, in every step, also in one that does not change it.
    pub fn copy(self, copy: impl Into<TensorMut<'a>>) -> Self {
        Update { copy: Some(copy.into()), ..self }
    }

    /// Also writes the direction of each element, -1, 0, 1 or NaN, to a tensor in f32, f16 or bf16, if the call steps the
    /// variable; else the tensor does not change. [`Lion::follow`](crate::Lion::follow) makes the same step from the
    /// directions on another copy of the parameter.
    pub fn direction(self, direction: impl Into<TensorMut<'a>>) -> Self {
        Update { direction: Some(direction.into()), ..self }
    }

    /// Returns the first element.
    #[inline]
    pub(crate) fn start(&self) -> usize {
        self.range.as_ref().map_or(0, |range| range.start)
    }

    /// Returns the variable's elements that the tensors hold. Requires that the update has been checked.
    #[inline]
    pub(crate) fn elements(&self) -> Range<usize> {
        self.range.clone().unwrap_or(0..self.parameter.len())
    }

    /// Checks that the tensors match the variable, or the range of it.
    pub(crate) fn check(&self, variable: &Variable) -> Result<(), Error> {
        let expected = match &self.range {
            None if variable.held.len() == variable.len => variable.len,
            None => return variable.check_held(&(0..variable.len)),
            Some(range) => {
                variable.check_part(range)?;
                range.len()
            }
        };
        variable.check_parameter("parameter", &self.parameter.to_ref(), expected)?;
        if let Some(gradient) = &self.gradient {
            variable.check_gradient(gradient, expected)?;
        }
        if let Some(source) = &self.source {
            variable.check_parameter("source", source, expected)?;
        }
        if let Some(copy) = &self.copy {
            variable.check_length("copy", copy.len(), expected)?;
        }
        if let Some(direction) = &self.direction {
            variable.check_direction(&direction.to_ref(), expected)?;
        }
        Ok(())
    }

    /// Copies the source, if there is one, to the parameter. Requires that the update has been checked.
    pub(crate) fn copy_source(&mut self) {
        if let Some(source) = self.source {
            let alike = self.parameter.copy_from(source);
            debug_assert!(alike, "the source has been checked");
        }
    }

    /// Returns the task that writes the stored parameter, with its low halves if it has some, to the copy.
    pub(crate) fn refresh_copy<'t>(
        &'t mut self,
        low: Option<&'t mut [i16]>,
    ) -> Result<Option<Task<'t>>, lion_kernels::Error> {
        let Some(copy) = &mut self.copy else { return Ok(None) };
        let parameter = joined(self.parameter.reborrow(), low)?;
        Task::convert(parameter, copy.reborrow()).map(Some)
    }
}
