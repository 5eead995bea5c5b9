//! How a call hands over the tensors of a variable.

use std::ops::Range;

use lion_kernels::{Task, TensorMut, TensorRef};

use crate::variable::{Variable, joined};
use crate::{Error, VariableId};

/// A variable's tensors in one call: the parameter, which the call moves, and its gradient, of any format.
///
/// ```
/// use half::bf16;
/// use lion::{Dtype, Lion, Update};
///
/// let mut optimizer = Lion::builder().learning_rate(0.25).build()?;
/// let weights = optimizer.register("weights", &[2], Dtype::F32)?;
///
/// // From one tensor into another, with a copy for the next forward pass.
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
    /// Of the variable's elements; all where there is none.
    pub(crate) range: Option<Range<usize>>,
    pub(crate) source: Option<TensorRef<'a>>,
    pub(crate) parameter: TensorMut<'a>,
    pub(crate) gradient: Option<TensorRef<'a>>,
    pub(crate) copy: Option<TensorMut<'a>>,
    pub(crate) direction: Option<TensorMut<'a>>,
}

impl<'a> Update<'a> {
    /// Moves `parameter` in place.
    pub fn new(
        variable: VariableId,
        parameter: impl Into<TensorMut<'a>>,
        gradient: impl Into<TensorRef<'a>>,
    ) -> Self {
        Update { gradient: Some(gradient.into()), ..Self::without_gradient(variable, parameter) }
    }

    /// Reads the parameter from `source` and writes it to `parameter`, of the same format: in every call, also one
    /// that does not move it.
    pub fn out_of_place(
        variable: VariableId,
        source: impl Into<TensorRef<'a>>,
        parameter: impl Into<TensorMut<'a>>,
        gradient: impl Into<TensorRef<'a>>,
    ) -> Self {
        Update::new(variable, parameter, gradient).source(source)
    }

    /// A variable that has no gradient in this call. Nothing is done to it, but that it takes part in the moving
    /// average.
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

    /// All at once, as bindings to other languages have it: what the methods below add is an argument each.
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

    /// The tensors are those of some elements of the variable only, in row-major order.
    pub fn range(self, range: Range<usize>) -> Self {
        Update { range: Some(range), ..self }
    }

    /// Reads the parameter from here, and not from where it is written.
    pub fn source(self, source: impl Into<TensorRef<'a>>) -> Self {
        Update { source: Some(source.into()), ..self }
    }

    /// Also writes the parameter, as it is stored after the call, to a tensor of any format: in every call, also one
    /// that does not move it.
    pub fn copy(self, copy: impl Into<TensorMut<'a>>) -> Self {
        Update { copy: Some(copy.into()), ..self }
    }

    /// Also writes the direction of each element, -1, 0, 1 or NaN, to a tensor in f32, f16 or bf16, if the call steps the
    /// variable; else the tensor does not change. [`Lion::follow`](crate::Lion::follow) makes the same step from the
    /// directions on another copy of the parameter.
    pub fn direction(self, direction: impl Into<TensorMut<'a>>) -> Self {
        Update { direction: Some(direction.into()), ..self }
    }

    /// The first element.
    #[inline]
    pub(crate) fn start(&self) -> usize {
        self.range.as_ref().map_or(0, |range| range.start)
    }

    /// Which elements of the variable the tensors are of. The update has been checked.
    #[inline]
    pub(crate) fn elements(&self) -> Range<usize> {
        self.range.clone().unwrap_or(0..self.parameter.len())
    }

    /// Whether the tensors are those of the variable, or of a range of it.
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

    /// The parameter as it was, where it is now written. The lengths and formats have been checked.
    pub(crate) fn keep(&mut self) {
        if let Some(source) = self.source {
            let alike = self.parameter.copy_from(source);
            debug_assert!(alike, "the source has been checked");
        }
    }

    /// Makes the copy that of the parameter as stored, with its low halves if it has some.
    pub(crate) fn refresh_copy<'t>(
        &'t mut self,
        low: Option<&'t mut [i16]>,
    ) -> Result<Option<Task<'t>>, lion_kernels::Error> {
        let Some(copy) = &mut self.copy else { return Ok(None) };
        let parameter = joined(self.parameter.reborrow(), low)?;
        Task::convert(parameter, copy.reborrow()).map(Some)
    }
}
