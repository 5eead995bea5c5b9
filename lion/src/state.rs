//! The state of all variables: one arena per kind, in the order of registration.

use lion_kernels::{Arena, Dtype, Element, Error, TensorMut, TensorsMut};

use crate::VariableId;
use crate::variable::{Store, Variable, VariableStateMut, VariableView};

/// The arenas. Every variable has a tensor in each arena, of length zero if it does not have that kind of state. The arena
/// of the low halves is empty until a variable has some.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    momentum: Arena,
    low: Arena,
    ema: Arena,
    accumulator: Arena,
}

impl State {
    /// Adds the state of one more variable, filled with zeros. If allocation fails, nothing changes.
    pub(crate) fn push(&mut self, variable: &Variable) -> Result<(), Error> {
        let before = self.momentum.len();
        let pushed = self.try_push(variable);
        if pushed.is_err() {
            for arena in [&mut self.momentum, &mut self.low, &mut self.ema, &mut self.accumulator] {
                arena.truncate(before);
            }
        }
        pushed
    }

    fn try_push(&mut self, variable: &Variable) -> Result<(), Error> {
        let single = |wanted: bool| if wanted { variable.held.len() } else { 0 };
        let momentum = variable.momentum_dtype.unwrap_or(variable.dtype);
        self.momentum.push(momentum, single(variable.momentum_dtype.is_some()))?;
        self.push_low(variable)?;
        self.ema.push(f32::DTYPE, single(variable.averaged))?;
        self.accumulator.push(f32::DTYPE, single(variable.accumulated))?;
        Ok(())
    }

    /// Adds low halves. Few optimizers have them, so the arena stays empty until the first variable that does.
    fn push_low(&mut self, variable: &Variable) -> Result<(), Error> {
        let splits = variable.store == Store::Split;
        if splits || !self.low.is_empty() {
            while self.low.len() + 1 < self.momentum.len() {
                self.low.push(Dtype::I16, 0)?;
            }
            self.low.push(Dtype::I16, if splits { variable.held.len() } else { 0 })?;
        }
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
            low: match variable.store {
                Store::Split => self.low.tensor(id.0).and_then(|it| it.as_slice::<i16>()),
                _ => None,
            },
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

    /// Iterates over the state of each variable, in the order of registration.
    #[inline]
    pub(crate) fn states_mut(&mut self) -> StatesMut<'_> {
        StatesMut {
            momentum: self.momentum.tensors_mut(),
            low: self.low.tensors_mut(),
            ema: self.ema.tensors_mut(),
            accumulator: self.accumulator.tensors_mut(),
        }
    }
}

/// An iterator over the state of the variables.
#[derive(Debug)]
pub(crate) struct StatesMut<'a> {
    momentum: TensorsMut<'a>,
    low: TensorsMut<'a>,
    ema: TensorsMut<'a>,
    accumulator: TensorsMut<'a>,
}

impl<'a> StatesMut<'a> {
    /// Skips `skipped` variables and returns the state of the next, which is `variable`.
    #[inline]
    pub(crate) fn nth(&mut self, skipped: usize, variable: &Variable) -> VariableStateMut<'a> {
        let next = |arena: &mut TensorsMut<'a>| {
            arena.nth(skipped).expect("each variable has a tensor in each arena")
        };
        let single = |wanted: bool, tensor: TensorMut<'a>| {
            wanted.then(|| tensor.into_slice::<f32>().expect("the arena holds f32 alone"))
        };
        let (momentum, low, ema) = (next(&mut self.momentum), self.low.nth(skipped), next(&mut self.ema));
        VariableStateMut {
            momentum: variable.momentum_dtype.map(|_| momentum),
            low: low
                .filter(|_| variable.store == Store::Split)
                .map(|low| low.into_slice::<i16>().expect("the arena holds i16 alone")),
            ema: single(variable.averaged, ema),
            accumulator: single(variable.accumulated, next(&mut self.accumulator)),
        }
    }
}
