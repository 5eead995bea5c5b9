//! Variables: the properties of a parameter that are fixed when it is registered.

use std::ops::Range;

use lion_kernels::{
    Dtype, Role, STATISTICS_BLOCK, StochasticRounding, Task, TensorMut, TensorRef, VariableKey,
};

use crate::{Constraint, Error, GroupId};

/// The id of a variable of the optimizer that registered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VariableId(pub(crate) usize);

impl VariableId {
    /// Returns the variable's index in the order of registration, from 0, for bindings to other languages.
    pub fn index(self) -> usize {
        self.0
    }

    /// Returns the id of that index. The optimizer refuses an index that it does not have.
    pub fn from_index(index: usize) -> Self {
        VariableId(index)
    }
}

/// Per-variable options.
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
    /// The momentum's dtype. `None` means the optimizer's `momentum_dtype`, or else the parameter's dtype.
    pub momentum_dtype: Option<Dtype>,
    /// Excludes this variable from weight decay, whatever its name.
    pub exclude_from_weight_decay: bool,
    /// Overwrites the variable with its gradient, as Keras's `overwrite_with_gradient` does; over an accumulation cycle with
    /// the maximum of the gradients and 0. Such a variable has neither momentum nor average, and is neither unscaled,
    /// clipped nor constrained. A dynamic loss scale still checks that its gradient is finite.
    pub overwrite_with_gradient: bool,
    /// The constraint applied after each step in which the variable has a gradient.
    pub constraint: Option<Constraint>,
    /// The group that gives the variable's hyperparameters.
    pub group: GroupId,
    /// Exempts the variable from the optimizer's `stochastic_rounding` and `split_master`, which are for bf16 parameters
    /// only. Its parameter is rounded to nearest even, and has no low half.
    pub nearest_rounding: bool,
    /// The range of elements, in row-major order, whose state this optimizer holds; `None` means all. Pass parameters and
    /// gradients of a shard by ranges within it, see [`Update::range`](crate::Update::range). A shard excludes
    /// [`overwrite_with_gradient`](Self::overwrite_with_gradient), and constraints other than
    /// [`Constraint::non_negative`].
    pub shard: Option<Range<usize>>,
}

/// A variable and its state, as [`Lion::variables`](crate::Lion::variables) returns it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct VariableView<'a> {
    /// Its id, for updates.
    pub id: VariableId,
    /// Its unique name.
    pub name: &'a str,
    /// Its shape; empty for a scalar.
    pub shape: &'a [usize],
    /// The range of elements, in row-major order, that the state covers: all, or a shard.
    pub held: &'a Range<usize>,
    /// The parameter's dtype.
    pub dtype: Dtype,
    /// The momentum; `None` if the variable is overwritten with its gradient.
    pub momentum: Option<TensorRef<'a>>,
    /// The low halves of the parameter, with `split_master`.
    pub low: Option<&'a [i16]>,
    /// The parameter's moving average, with `use_ema`; `None` if the variable is overwritten with its gradient.
    pub ema: Option<&'a [f32]>,
    /// The gradients accumulated so far, with `gradient_accumulation_steps`.
    pub accumulator: Option<&'a [f32]>,
}

/// A variable's mutable state; see [`Lion::state_mut`](crate::Lion::state_mut).
#[derive(Debug)]
#[non_exhaustive]
pub struct VariableStateMut<'a> {
    /// As in [`VariableView`].
    pub momentum: Option<TensorMut<'a>>,
    /// As in [`VariableView`].
    pub low: Option<&'a mut [i16]>,
    /// As in [`VariableView`].
    pub ema: Option<&'a mut [f32]>,
    /// As in [`VariableView`].
    pub accumulator: Option<&'a mut [f32]>,
}

impl<'a> VariableStateMut<'a> {
    /// Drops the state of `skipped` elements, and splits off the state of the next `len` elements.
    pub(crate) fn take(
        &mut self,
        skipped: usize,
        len: usize,
    ) -> Result<VariableStateMut<'a>, lion_kernels::Error> {
        fn cut<'a, T>(tensor: &mut Option<&'a mut [T]>, skipped: usize, len: usize) -> Option<&'a mut [T]> {
            let (taken, rest) = tensor.take()?.split_at_mut(skipped).1.split_at_mut(len);
            *tensor = Some(rest);
            Some(taken)
        }
        let momentum = match self.momentum.take() {
            None => None,
            Some(momentum) => {
                let (taken, rest) = momentum.split_at(skipped)?.1.split_at(len)?;
                self.momentum = Some(rest);
                Some(taken)
            }
        };
        Ok(VariableStateMut {
            momentum,
            low: cut(&mut self.low, skipped, len),
            ema: cut(&mut self.ema, skipped, len),
            accumulator: cut(&mut self.accumulator, skipped, len),
        })
    }

    pub(crate) fn clear_accumulator(&mut self) {
        if let Some(accumulator) = &mut self.accumulator {
            accumulator.fill(0.0);
        }
    }
}

/// The way a variable's parameter is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// Rounded to nearest even.
    Nearest,
    /// Stochastic rounding, with the variable's key.
    Stochastic(VariableKey),
    /// With its low halves in the state.
    Split,
}

/// Joins a parameter with its low halves, if it has some.
pub(crate) fn joined<'t>(
    parameter: TensorMut<'t>,
    low: Option<&'t mut [i16]>,
) -> Result<TensorMut<'t>, lion_kernels::Error> {
    match low {
        None => Ok(parameter),
        Some(low) => TensorMut::from_streams(Dtype::Split, parameter, low),
    }
}

/// A registered variable; its state is in [`State`](crate::state::State).
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) len: usize,
    /// The range of elements that the state covers.
    pub(crate) held: Range<usize>,
    pub(crate) dtype: Dtype,
    pub(crate) store: Store,
    pub(crate) group: GroupId,
    pub(crate) decays: bool,
    pub(crate) overwritten: bool,
    pub(crate) constraint: Option<Constrained>,
    /// `None` if the variable has no momentum.
    pub(crate) momentum_dtype: Option<Dtype>,
    pub(crate) averaged: bool,
    pub(crate) accumulated: bool,
}

/// A constraint that has been checked against the variable's shape.
#[derive(Clone, Debug)]
pub(crate) struct Constrained {
    pub(crate) constraint: Constraint,
    /// The number of norms that it needs memory for.
    pub(crate) norms: usize,
}

/// The kinds of state and the storage that the optimizer's options ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StateSpec {
    pub(crate) momentum_dtype: Option<Dtype>,
    pub(crate) stochastic_rounding: Option<u64>,
    pub(crate) split_master: bool,
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
        spec: StateSpec,
    ) -> Result<Self, Error> {
        let Some(len) = elements(shape) else {
            return Err(Error::ShapeTooLarge { name: name.into(), shape: shape.into() });
        };
        if !(dtype.fits(Role::Parameter) && dtype.streams().len() == 1) {
            return Err(Error::ParameterDtype { name: name.into(), dtype });
        }
        let store = match (spec.stochastic_rounding, spec.split_master) {
            _ if options.nearest_rounding => Store::Nearest,
            (Some(seed), _) => Store::Stochastic(StochasticRounding::variable_key(seed, name)),
            (None, true) => Store::Split,
            (None, false) => Store::Nearest,
        };
        if store != Store::Nearest && dtype != Dtype::BF16 {
            let option = if store == Store::Split { "split_master" } else { "stochastic_rounding" };
            return Err(Error::NotBf16 { name: name.into(), dtype, option });
        }
        let constraint = options.constraint.clone().map(|constraint| {
            let norms = constraint
                .norms(shape)
                .map_err(|error| error.under(&format!("the constraint of {name:?}")))?;
            Ok::<_, Error>(Constrained { constraint, norms })
        });
        let trained = !options.overwrite_with_gradient;
        let held = match options.shard {
            None => 0..len,
            Some(shard) => {
                check_range(name, &shard, &(0..len))?;
                let whole = match &options.constraint {
                    _ if !trained => Some("is overwritten with its gradient"),
                    Some(constraint) if !constraint.is_elementwise() => Some("has a constraint"),
                    _ => None,
                };
                if let Some(reason) = whole {
                    return Err(Error::NeedsWhole { name: name.into(), reason, range: shard });
                }
                shard
            }
        };
        let momentum_dtype = options.momentum_dtype.or(spec.momentum_dtype).unwrap_or(dtype);
        if !momentum_dtype.fits(Role::Momentum) {
            return Err(Error::MomentumDtype { name: name.into(), dtype: momentum_dtype });
        }
        let variable = Variable {
            name: name.into(),
            shape: shape.into(),
            len,
            held,
            dtype,
            store,
            group: options.group,
            decays: spec.decays && !options.exclude_from_weight_decay,
            overwritten: !trained,
            constraint: constraint.transpose()?,
            momentum_dtype: trained.then_some(momentum_dtype),
            averaged: spec.ema && trained,
            accumulated: spec.accumulator,
        };
        variable.check_cut(&variable.held)?;
        Ok(variable)
    }

    /// Checks that a range cuts no block of the momentum's dtype or of random numbers.
    fn check_cut(&self, range: &Range<usize>) -> Result<(), Error> {
        let block = self.momentum_dtype.map_or(1, Dtype::block);
        let (of, block) = match self.store {
            _ if block > 1 => ("momentum", block),
            Store::Stochastic(_) => ("random numbers", Task::ALIGNMENT),
            _ => return Ok(()),
        };
        let whole = |at: usize| at.is_multiple_of(block) || at == self.len;
        match whole(range.start) && whole(range.end) {
            true => Ok(()),
            false => Err(Error::CutBlock { name: self.name.clone(), of, block, range: range.clone() }),
        }
    }

    /// Checks that the state covers the range.
    pub(crate) fn check_held(&self, range: &Range<usize>) -> Result<(), Error> {
        check_range(&self.name, range, &self.held)
    }

    /// Checks that the range can be updated without the variable's other elements.
    pub(crate) fn check_part(&self, range: &Range<usize>) -> Result<(), Error> {
        self.check_held(range)?;
        self.check_separable(range)
    }

    /// Whether elements that another optimizer holds can follow its directions.
    pub(crate) fn check_followed(&self, range: &Range<usize>) -> Result<(), Error> {
        check_range(&self.name, range, &(0..self.len))?;
        if self.store == Store::Split {
            let name = format!("the parameter of {:?}", self.name);
            return Err(Error::argument(name, "split into two halves", "one tensor, to follow directions"));
        }
        self.check_separable(range)
    }

    fn check_separable(&self, range: &Range<usize>) -> Result<(), Error> {
        self.check_cut(range)?;
        let reason = match &self.constraint {
            _ if *range == (0..self.len) => return Ok(()),
            _ if self.overwritten => "is overwritten with its gradient",
            Some(it) if !it.constraint.is_elementwise() => "has a constraint",
            _ => return Ok(()),
        };
        Err(Error::NeedsWhole { name: self.name.clone(), reason, range: range.clone() })
    }

    /// Checks a tensor's length.
    pub(crate) fn check_length(
        &self,
        tensor: &'static str,
        found: usize,
        expected: usize,
    ) -> Result<(), Error> {
        match found == expected {
            true => Ok(()),
            false => Err(Error::Length { name: self.name.clone(), tensor, found, expected }),
        }
    }

    /// Checks a gradient's length and dtype.
    pub(crate) fn check_gradient(&self, gradient: &TensorRef<'_>, expected: usize) -> Result<(), Error> {
        self.check_values("gradient", gradient, expected)
    }

    /// Whether a tensor has that length and a format of directions, which is one of gradients.
    pub(crate) fn check_direction(&self, direction: &TensorRef<'_>, expected: usize) -> Result<(), Error> {
        self.check_values("direction", direction, expected)
    }

    fn check_values(
        &self,
        tensor: &'static str,
        values: &TensorRef<'_>,
        expected: usize,
    ) -> Result<(), Error> {
        self.check_length(tensor, values.len(), expected)?;
        match values.dtype() {
            dtype if dtype.fits(Role::Gradient) => Ok(()),
            found => {
                let expected = "one of f32, f16, bf16".into();
                Err(self.error(lion_kernels::Error::Format { tensor, found, expected }))
            }
        }
    }

    /// Checks a parameter's length and dtype.
    pub(crate) fn check_parameter(
        &self,
        tensor: &'static str,
        values: &TensorRef<'_>,
        expected: usize,
    ) -> Result<(), Error> {
        self.check_length(tensor, values.len(), expected)?;
        match values.dtype() == self.dtype {
            true => Ok(()),
            false => {
                let (found, expected) = (values.dtype(), self.dtype);
                Err(Error::Dtype { name: self.name.clone(), tensor, found, expected })
            }
        }
    }

    /// Checks that a range consists of whole blocks of statistics.
    pub(crate) fn check_blocks(&self, range: &Range<usize>) -> Result<(), Error> {
        let whole = |at: usize| at.is_multiple_of(STATISTICS_BLOCK) || at == self.len;
        match whole(range.start) && whole(range.end) {
            true => Ok(()),
            false => {
                let (name, range) = (self.name.clone(), range.clone());
                Err(Error::CutBlock { name, of: "statistics", block: STATISTICS_BLOCK, range })
            }
        }
    }

    /// Returns the indices of a range's elements in the state.
    pub(crate) fn within_held(&self, range: &Range<usize>) -> Range<usize> {
        range.start - self.held.start..range.end - self.held.start
    }

    /// Returns the error that elements are missing which the moving average needs.
    pub(crate) fn missing(&self, range: Range<usize>) -> Error {
        let name = self.name.clone();
        match range == (0..self.len) {
            true => Error::MissingVariable { name },
            false => Error::MissingElements { name, range },
        }
    }

    /// Adds this variable's name to a kernel's error.
    pub(crate) fn error(&self, reason: lion_kernels::Error) -> Error {
        Error::Tensor { name: self.name.clone(), reason }
    }
}

fn check_range(name: &str, range: &Range<usize>, allowed: &Range<usize>) -> Result<(), Error> {
    match allowed.start <= range.start && range.start <= range.end && range.end <= allowed.end {
        true => Ok(()),
        false => Err(Error::Range { name: name.into(), range: range.clone(), allowed: allowed.clone() }),
    }
}

/// Returns the number of elements of a shape, or `None` if it overflows. An axis of length 0 makes it 0.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1_usize, |elements, &side| elements.checked_mul(side))
}
