//! Variables: what an optimizer knows of a parameter between calls, and how a call hands over its tensors.

use lion_kernels::{Buffer, Dtype, Slice, SliceMut};

use crate::Error;

/// A variable of the optimizer that registered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VariableId(pub(crate) usize);

/// A registered variable and its state.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) len: usize,
    pub(crate) dtype: Dtype,
    pub(crate) momentum: State,
}

/// State memory of a format chosen at run time.
#[derive(Clone, Debug)]
pub(crate) enum State {
    F32(Buffer<f32>),
    F16(Buffer<half::f16>),
    BF16(Buffer<half::bf16>),
}

impl State {
    pub(crate) fn zeroed(dtype: Dtype, len: usize) -> Result<Self, lion_kernels::Error> {
        Ok(match dtype {
            Dtype::F32 => State::F32(Buffer::zeroed(len)?),
            Dtype::F16 => State::F16(Buffer::zeroed(len)?),
            Dtype::BF16 => State::BF16(Buffer::zeroed(len)?),
        })
    }

    pub(crate) fn as_slice(&self) -> Slice<'_> {
        match self {
            State::F32(buffer) => Slice::F32(buffer),
            State::F16(buffer) => Slice::F16(buffer),
            State::BF16(buffer) => Slice::BF16(buffer),
        }
    }

    pub(crate) fn as_slice_mut(&mut self) -> SliceMut<'_> {
        match self {
            State::F32(buffer) => SliceMut::F32(buffer),
            State::F16(buffer) => SliceMut::F16(buffer),
            State::BF16(buffer) => SliceMut::BF16(buffer),
        }
    }
}

impl Variable {
    pub(crate) fn new(name: &str, shape: &[usize], dtype: Dtype) -> Result<Self, Error> {
        let len = shape.iter().try_fold(1_usize, |len, &extent| len.checked_mul(extent));
        let Some(len) = len else {
            return Err(Error::ShapeTooLarge { name: name.into(), shape: shape.into() });
        };
        let momentum =
            State::zeroed(dtype, len).map_err(|source| Error::Tensor { name: name.into(), source })?;
        Ok(Variable { name: name.into(), shape: shape.into(), len, dtype, momentum })
    }

    pub(crate) fn check(&self, update: &Update<'_>) -> Result<(), Error> {
        let length = |tensor, found| match found == self.len {
            true => Ok(()),
            false => Err(Error::Length { name: self.name.clone(), tensor, found, expected: self.len }),
        };
        length("parameter", update.parameter.len())?;
        length("gradient", update.gradient.len())?;
        if update.parameter.dtype() != self.dtype {
            let found = update.parameter.dtype();
            return Err(Error::Dtype { name: self.name.clone(), found, expected: self.dtype });
        }
        Ok(())
    }
}

/// A variable's tensors in one call: the parameter, which the call moves, and its gradient, of any format.
#[derive(Debug)]
pub struct Update<'a> {
    pub(crate) variable: VariableId,
    pub(crate) parameter: SliceMut<'a>,
    pub(crate) gradient: Slice<'a>,
}

impl<'a> Update<'a> {
    /// Moves `parameter` in place.
    pub fn new(
        variable: VariableId,
        parameter: impl Into<SliceMut<'a>>,
        gradient: impl Into<Slice<'a>>,
    ) -> Self {
        Update { variable, parameter: parameter.into(), gradient: gradient.into() }
    }
}
