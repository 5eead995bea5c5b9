//! Variables: what an optimizer knows of a parameter between calls.

use lion_kernels::{Dtype, TensorMut, TensorRef};

use crate::{Constraint, Error, GroupId};

/// A variable of the optimizer that registered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VariableId(pub(crate) usize);

/// What is special about a variable: nothing by default.
///
/// ```
/// use lion::{Constraint, Dtype, Lion, VariableOptions};
///
/// let mut optimizer = Lion::builder().weight_decay(0.1).build()?;
/// let options = VariableOptions {
///     momentum_dtype: Some(Dtype::F32),
///     exclude_from_weight_decay: true,
///     constraint: Some(Constraint::max_norm(1.0, 0)?),
///     ..Default::default()
/// };
/// optimizer.register_with("kernel", &[64, 128], Dtype::BF16, options)?;
/// # Ok::<(), lion::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct VariableOptions {
    /// The momentum's format; the optimizer's choice, or else the parameter's format, where `None`.
    pub momentum_dtype: Option<Dtype>,
    /// No weight decay for this variable, whatever its name.
    pub exclude_from_weight_decay: bool,
    /// The gradient is the variable's new value, as with Keras's `overwrite_with_gradient`, and over an accumulation
    /// window the largest gradient and 0. Such a variable has neither momentum nor average, and takes no part in
    /// unscaling, clipping and constraints; a dynamic loss scale does look whether its gradient is finite.
    pub overwrite_with_gradient: bool,
    /// What the variable is made to fulfil after each call in which it has a gradient.
    pub constraint: Option<Constraint>,
    /// Whose hyperparameters it has.
    pub group: GroupId,
}

/// A variable as [`Lion::variables`](crate::Lion::variables) shows it, with its state.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct VariableView<'a> {
    /// What updates name it by.
    pub id: VariableId,
    /// Its name, which no other has.
    pub name: &'a str,
    /// Its shape; empty for a scalar.
    pub shape: &'a [usize],
    /// The parameter's format.
    pub dtype: Dtype,
    /// The momentum; `None` where the variable is overwritten with its gradient.
    pub momentum: Option<TensorRef<'a>>,
    /// The parameter's moving average, where the optimizer keeps one and the variable takes part.
    pub ema: Option<&'a [f32]>,
    /// The gradients accumulated so far, where the optimizer accumulates.
    pub accumulator: Option<&'a [f32]>,
}

/// A variable's state, to be restored from elsewhere; see [`Lion::state_mut`](crate::Lion::state_mut).
#[derive(Debug)]
#[non_exhaustive]
pub struct StateMut<'a> {
    /// As in [`VariableView`].
    pub momentum: Option<TensorMut<'a>>,
    /// As in [`VariableView`].
    pub ema: Option<&'a mut [f32]>,
    /// As in [`VariableView`].
    pub accumulator: Option<&'a mut [f32]>,
}

impl StateMut<'_> {
    pub(crate) fn clear_accumulator(&mut self) {
        if let Some(accumulator) = &mut self.accumulator {
            accumulator.fill(0.0);
        }
    }
}

/// A registered variable; its state is in [`Memory`](crate::memory::Memory).
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) len: usize,
    pub(crate) dtype: Dtype,
    pub(crate) group: GroupId,
    pub(crate) decays: bool,
    pub(crate) overwritten: bool,
    pub(crate) constraint: Option<Constrained>,
    /// None where there is no momentum.
    pub(crate) momentum_dtype: Option<Dtype>,
    pub(crate) averaged: bool,
    pub(crate) accumulated: bool,
}

/// A constraint that fits the variable's shape.
#[derive(Clone, Debug)]
pub(crate) struct Constrained {
    pub(crate) constraint: Constraint,
    /// How much memory for norms it needs.
    pub(crate) norms: usize,
}

/// What the optimizer wants kept of each variable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) momentum_dtype: Option<Dtype>,
    pub(crate) decays: bool,
    pub(crate) ema: bool,
    pub(crate) accumulator: bool,
}

impl Variable {
    pub(crate) fn new(
        name: &str,
        shape: &[usize],
        dtype: Dtype,
        options: VariableOptions,
        wanted: Wanted,
    ) -> Result<Self, Error> {
        let Some(len) = elements(shape) else {
            return Err(Error::ShapeTooLarge { name: name.into(), shape: shape.into() });
        };
        let constraint = options.constraint.map(|constraint| {
            let norms = constraint
                .norms(shape)
                .map_err(|error| error.under(&format!("the constraint of {name:?}")))?;
            Ok::<_, Error>(Constrained { constraint, norms })
        });
        let trained = !options.overwrite_with_gradient;
        let momentum_dtype = options.momentum_dtype.or(wanted.momentum_dtype).unwrap_or(dtype);
        Ok(Variable {
            name: name.into(),
            shape: shape.into(),
            len,
            dtype,
            group: options.group,
            decays: wanted.decays && !options.exclude_from_weight_decay,
            overwritten: !trained,
            constraint: constraint.transpose()?,
            momentum_dtype: trained.then_some(momentum_dtype),
            averaged: wanted.ema && trained,
            accumulated: wanted.accumulator,
        })
    }

    /// Whether a tensor has the variable's length.
    pub(crate) fn check_length(&self, tensor: &'static str, found: usize) -> Result<(), Error> {
        match found == self.len {
            true => Ok(()),
            false => Err(Error::Length { name: self.name.clone(), tensor, found, expected: self.len }),
        }
    }

    /// Whether a tensor has the variable's length and format.
    pub(crate) fn check_parameter(&self, tensor: &'static str, values: &TensorRef<'_>) -> Result<(), Error> {
        self.check_length(tensor, values.len())?;
        match values.dtype() == self.dtype {
            true => Ok(()),
            false => {
                let (found, expected) = (values.dtype(), self.dtype);
                Err(Error::Dtype { name: self.name.clone(), tensor, found, expected })
            }
        }
    }

    /// Says that a kernel's error is about this variable.
    pub(crate) fn error(&self, source: lion_kernels::Error) -> Error {
        Error::Tensor { name: self.name.clone(), source }
    }
}

/// The number of elements of a shape; `None` where no memory can hold them. A side of 0 makes any others none.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1_usize, |elements, &side| elements.checked_mul(side))
}
