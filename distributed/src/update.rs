//! [`Update`]: one variable's parameter and gradients, passed to a collective call.

use lion::{Dtype, Error, TensorMut, TensorRef, VariableId};

/// A variable's tensors in one call: the whole parameter, and the whole gradient of each of this rank's leaves.
#[derive(Debug)]
#[must_use]
pub struct Update<'a> {
    pub(crate) variable: VariableId,
    pub(crate) parameter: TensorMut<'a>,
    pub(crate) gradient: Gradient<'a>,
}

/// A variable's gradient in a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Gradient<'a> {
    Missing,
    /// The gradients of this rank's leaves.
    Leaves(&'a [TensorRef<'a>]),
    /// The mean over all leaves.
    Mean(TensorRef<'a>),
}

impl<'a> Gradient<'a> {
    /// Returns one of its tensors. All have the same dtype.
    pub(crate) fn first(&self) -> Option<TensorRef<'a>> {
        match self {
            Gradient::Missing => None,
            Gradient::Leaves(leaves) => leaves.first().copied(),
            Gradient::Mean(mean) => Some(*mean),
        }
    }
}

impl<'a> Update<'a> {
    /// A parameter and the gradients of this rank's leaves, in their order, all of one format. A rank that has one leaf
    /// passes one gradient.
    pub fn new(
        variable: VariableId,
        parameter: impl Into<TensorMut<'a>>,
        leaves: &'a [TensorRef<'a>],
    ) -> Self {
        Update { variable, parameter: parameter.into(), gradient: Gradient::Leaves(leaves) }
    }

    /// A parameter and the mean of the gradients of all leaves, for a framework that reduces gradients itself. The mean must
    /// be the same on all ranks. Each rank uses the elements that it owns, and the result has the bits of that mean.
    pub fn averaged(
        variable: VariableId,
        parameter: impl Into<TensorMut<'a>>,
        mean: impl Into<TensorRef<'a>>,
    ) -> Self {
        Update { variable, parameter: parameter.into(), gradient: Gradient::Mean(mean.into()) }
    }

    /// A variable that has no gradient in this call, on any rank.
    pub fn without_gradient(variable: VariableId, parameter: impl Into<TensorMut<'a>>) -> Self {
        Update { variable, parameter: parameter.into(), gradient: Gradient::Missing }
    }

    /// Returns an error if the tensors do not fit a variable with this many elements.
    pub(crate) fn check(
        &self,
        name: &str,
        len: usize,
        dtype: Dtype,
        leaves: usize,
    ) -> Result<(), crate::Error> {
        let wrong =
            |tensor, found| Err(Error::Length { name: name.into(), tensor, found, expected: len }.into());
        if self.parameter.len() != len {
            return wrong("parameter", self.parameter.len());
        }
        if self.parameter.dtype() != dtype {
            let (found, tensor) = (self.parameter.dtype(), "parameter");
            return Err(Error::Dtype { name: name.into(), tensor, found, expected: dtype }.into());
        }
        let mean;
        let gradients = match self.gradient {
            Gradient::Missing => &[],
            Gradient::Mean(gradient) => {
                mean = [gradient];
                &mean[..]
            }
            Gradient::Leaves(gradients) if gradients.len() == leaves => gradients,
            Gradient::Leaves(gradients) => {
                return Err(crate::Error::Setting {
                    name: "the number of gradients",
                    value: format!("{} for variable {name:?}", gradients.len()),
                    allowed: format!("{leaves}, one for each leaf of a rank"),
                });
            }
        };
        let Some(first) = gradients.first() else { return Ok(()) };
        for gradient in gradients {
            if gradient.len() != len {
                return wrong("gradient", gradient.len());
            }
            if gradient.dtype() != first.dtype() {
                let (found, expected) = (gradient.dtype(), first.dtype());
                return Err(Error::Dtype { name: name.into(), tensor: "gradient", found, expected }.into());
            }
        }
        Ok(())
    }
}
