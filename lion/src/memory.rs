//! The state of all variables: an arena for each kind, in the order of registration.

use lion_kernels::{Arena, Element, Error, TensorMut, TensorsMut};

use crate::VariableId;
use crate::variable::{StateMut, Variable, VariableView};

/// Every variable has a tensor in each arena, of length zero where it lacks that state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    momentum: Arena,
    ema: Arena,
    accumulator: Arena,
}

impl Memory {
    /// Adds the state of one more variable, zero. Where it cannot be had, everything is as it was.
    pub(crate) fn push(&mut self, variable: &Variable) -> Result<(), Error> {
        let before = self.momentum.len();
        let pushed = self.try_push(variable);
        if pushed.is_err() {
            for arena in [&mut self.momentum, &mut self.ema, &mut self.accumulator] {
                arena.truncate(before);
            }
        }
        pushed
    }

    fn try_push(&mut self, variable: &Variable) -> Result<(), Error> {
        let single = |wanted: bool| if wanted { variable.held.len() } else { 0 };
        let momentum = variable.momentum_dtype.unwrap_or(variable.dtype);
        self.momentum.push(momentum, single(variable.momentum_dtype.is_some()))?;
        self.ema.push(f32::DTYPE, single(variable.averaged))?;
        self.accumulator.push(f32::DTYPE, single(variable.accumulated))?;
        Ok(())
    }

    pub(crate) fn view<'a>(&'a self, id: VariableId, variable: &'a Variable) -> VariableView<'a> {
        let single = |arena: &'a Arena| arena.tensor(id.0).and_then(|it| it.as_slice::<f32>());
        VariableView {
            id,
            name: &variable.name,
            shape: &variable.shape,
            held: &variable.held,
            dtype: variable.dtype,
            momentum: variable.momentum_dtype.and_then(|_| self.momentum.tensor(id.0)),
            ema: if variable.averaged { single(&self.ema) } else { None },
            accumulator: self.accumulator(id, variable),
        }
    }

    pub(crate) fn accumulator(&self, id: VariableId, variable: &Variable) -> Option<&[f32]> {
        if variable.accumulated {
            self.accumulator.tensor(id.0).and_then(|it| it.as_slice::<f32>())
        } else {
            None
        }
    }

    /// The state of each variable, in the order of registration.
    #[inline]
    pub(crate) fn states_mut(&mut self) -> StatesMut<'_> {
        StatesMut {
            momentum: self.momentum.tensors_mut(),
            ema: self.ema.tensors_mut(),
            accumulator: self.accumulator.tensors_mut(),
        }
    }
}

/// The state of the variables, one after the other.
#[derive(Debug)]
pub(crate) struct StatesMut<'a> {
    momentum: TensorsMut<'a>,
    ema: TensorsMut<'a>,
    accumulator: TensorsMut<'a>,
}

impl<'a> StatesMut<'a> {
    /// The state of the variable that comes after `skipped` others, which this is.
    #[inline]
    pub(crate) fn nth(&mut self, skipped: usize, variable: &Variable) -> StateMut<'a> {
        let next = |arena: &mut TensorsMut<'a>| {
            arena.nth(skipped).expect("each variable has a tensor in each arena")
        };
        let single = |wanted: bool, tensor: TensorMut<'a>| {
            wanted.then(|| tensor.into_slice::<f32>().expect("the arena holds f32 alone"))
        };
        let (momentum, ema) = (next(&mut self.momentum), next(&mut self.ema));
        StateMut {
            momentum: variable.momentum_dtype.map(|_| momentum),
            ema: single(variable.averaged, ema),
            accumulator: single(variable.accumulated, next(&mut self.accumulator)),
        }
    }
}
