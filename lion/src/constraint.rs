mod json;

use std::fmt;
use std::sync::Arc;

use lion_kernels::with_ieee_state;

use crate::variable::elements;
use crate::{Error, check};

/// What a parameter is made to fulfil after each update: Keras's constraints, and a closure of the caller.
///
/// ```
/// use lion::Constraint;
///
/// // The columns of a dense kernel of shape (inputs, units).
/// let constraint = Constraint::max_norm(1.0, 0)?;
/// let mut kernel = [3.0, 0.1, 4.0, 0.1];
/// constraint.apply(&[2, 2], &mut kernel)?;
/// assert_eq!(kernel.map(|weight| (weight * 100.0).round()), [60.0, 10.0, 80.0, 10.0]);
/// # Ok::<(), lion::Error>(())
/// ```
///
/// # Norms
/// As in Keras, the squares are f32, and so are the root and all that comes after. The sum is f64, in the order of the
/// elements in memory, and is rounded once; that of Keras is in the order of its backend, so that the last bits may
/// differ. All runs serially: the same bits on every machine.
#[derive(Clone)]
pub struct Constraint(Rule);

type Function = dyn Fn(&[usize], &mut [f32]) + Send + Sync;

#[derive(Clone)]
enum Rule {
    NonNegative,
    MaxNorm { max: f32, axes: Axes, epsilon: f32 },
    UnitNorm { axes: Axes, epsilon: f32 },
    MinMaxNorm { min: f32, max: f32, rate: f32, rest: f32, axes: Axes, epsilon: f32 },
    Closure(Arc<Function>),
}

/// Over which axes a norm is taken; the parameter has one norm for each place on the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Axes {
    /// One norm over everything.
    All,
    /// Over these; negative ones count from the end.
    Of(Vec<isize>),
}

impl From<isize> for Axes {
    fn from(axis: isize) -> Self {
        Axes::Of(vec![axis])
    }
}

impl<const N: usize> From<[isize; N]> for Axes {
    fn from(axes: [isize; N]) -> Self {
        Axes::Of(axes.into())
    }
}

impl From<Vec<isize>> for Axes {
    fn from(axes: Vec<isize>) -> Self {
        Axes::Of(axes)
    }
}

/// Keeps Keras's norms from dividing by zero: `keras.config.epsilon()`, unless somebody changes it.
const EPSILON: f32 = 1e-7;

impl Constraint {
    /// Keras's `NonNeg`: `max(w, 0)`. NaN stays, and -0 becomes +0.
    pub fn non_negative() -> Self {
        Constraint(Rule::NonNegative)
    }

    /// Keras's `MaxNorm`: `w * (clip(norm, 0, max_value) / (epsilon + norm))`.
    ///
    /// # Errors
    /// [`Error::Argument`] where `max_value` is outside [0, inf).
    pub fn max_norm(max_value: f64, axes: impl Into<Axes>) -> Result<Self, Error> {
        let max = check::single(check::not_negative("max_value", max_value)?);
        Ok(Constraint(Rule::MaxNorm { max, axes: axes.into(), epsilon: EPSILON }))
    }

    /// Keras's `UnitNorm`: `w / (epsilon + norm)`.
    pub fn unit_norm(axes: impl Into<Axes>) -> Self {
        Constraint(Rule::UnitNorm { axes: axes.into(), epsilon: EPSILON })
    }

    /// Keras's `MinMaxNorm`: `w * ((rate * clip(norm, min_value, max_value) + (1 - rate) * norm) / (epsilon + norm))`.
    ///
    /// # Errors
    /// [`Error::Argument`] where `min_value` is outside [0, inf), `max_value` outside [min_value, inf) or `rate`
    /// outside [0, 1].
    pub fn min_max_norm(
        min_value: f64,
        max_value: f64,
        rate: f64,
        axes: impl Into<Axes>,
    ) -> Result<Self, Error> {
        check::not_negative("min_value", min_value)?;
        check::not_negative("max_value", max_value)?;
        check::fraction("rate", rate)?;
        if max_value < min_value {
            let allowed = format!("in [{min_value}, inf), from min_value");
            return Err(Error::argument("max_value", max_value, allowed));
        }
        Ok(Constraint(Rule::MinMaxNorm {
            min: check::single(min_value),
            max: check::single(max_value),
            rate: check::single(rate),
            // Python subtracts before it rounds.
            rest: with_ieee_state(|| (1.0 - rate) as f32),
            axes: axes.into(),
            epsilon: EPSILON,
        }))
    }

    /// The caller's own, on the shape and the values in row-major order.
    pub fn from_fn(function: impl Fn(&[usize], &mut [f32]) + Send + Sync + 'static) -> Self {
        Constraint(Rule::Closure(Arc::new(function)))
    }

    /// With another epsilon than 1e-7, for a Keras whose `keras.config.set_epsilon` was called. Without effect where
    /// there is no norm.
    ///
    /// # Errors
    /// [`Error::Argument`] where it is outside (0, inf).
    pub fn epsilon(mut self, value: f64) -> Result<Self, Error> {
        let value = check::single(check::positive("epsilon", value)?);
        if let Rule::MaxNorm { epsilon, .. }
        | Rule::UnitNorm { epsilon, .. }
        | Rule::MinMaxNorm { epsilon, .. } = &mut self.0
        {
            *epsilon = value;
        }
        Ok(self)
    }

    /// Makes the values, in row-major order, fulfil the constraint.
    ///
    /// # Errors
    /// [`Error::Shape`] where the shape is not that of the values, [`Error::Argument`] where it lacks an axis or an
    /// axis is there twice, [`Error::OutOfMemory`]. The values are then as they were.
    pub fn apply(&self, shape: &[usize], values: &mut [f32]) -> Result<(), Error> {
        self.apply_with(shape, values, &mut Vec::new())
    }

    /// How many norms it takes of a parameter of this shape, which is how long the scratch memory gets.
    pub(crate) fn norms(&self, shape: &[usize]) -> Result<usize, Error> {
        match &self.0 {
            Rule::NonNegative | Rule::Closure(_) => Ok(0),
            Rule::MaxNorm { axes, .. } | Rule::UnitNorm { axes, .. } | Rule::MinMaxNorm { axes, .. } => {
                let empty = shape.contains(&0);
                Layout::new(shape, axes).map(|layout| if empty { 0 } else { layout.norms })
            }
        }
    }

    /// Whether it looks at each element alone, so that a part of a variable can be made to fulfil it.
    pub(crate) fn is_elementwise(&self) -> bool {
        matches!(self.0, Rule::NonNegative)
    }

    /// [`apply`](Self::apply) with memory that is used again.
    pub(crate) fn apply_with(
        &self,
        shape: &[usize],
        values: &mut [f32],
        sums: &mut Vec<f64>,
    ) -> Result<(), Error> {
        if elements(shape) != Some(values.len()) {
            return Err(Error::Shape { shape: shape.into(), elements: values.len() });
        }
        match &self.0 {
            Rule::NonNegative => {
                for value in values {
                    *value = at_least(*value, 0.0);
                }
            }
            Rule::MaxNorm { max, axes, epsilon } => {
                let factor = |norm| at_most(norm, *max) / (epsilon + norm);
                by_norm(shape, values, axes, sums, factor, |value, factor| value * factor)?;
            }
            Rule::UnitNorm { axes, epsilon } => {
                by_norm(shape, values, axes, sums, |norm| epsilon + norm, |value, divisor| value / divisor)?;
            }
            Rule::MinMaxNorm { min, max, rate, rest, axes, epsilon } => {
                let factor = |norm| {
                    let desired = rate * at_most(at_least(norm, *min), *max) + rest * norm;
                    desired / (epsilon + norm)
                };
                by_norm(shape, values, axes, sums, factor, |value, factor| value * factor)?;
            }
            Rule::Closure(function) => function(shape, values),
        }
        Ok(())
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::NonNegative => f.write_str("NonNegative"),
            Rule::MaxNorm { max, axes, .. } => write!(f, "MaxNorm({max}, {axes:?})"),
            Rule::UnitNorm { axes, .. } => write!(f, "UnitNorm({axes:?})"),
            Rule::MinMaxNorm { min, max, rate, axes, .. } => {
                write!(f, "MinMaxNorm({min}, {max}, {rate}, {axes:?})")
            }
            Rule::Closure(_) => f.write_str("Closure(..)"),
        }
    }
}

/// f32's own `max` and `min` would prefer a number to NaN.
fn at_least(value: f32, limit: f32) -> f32 {
    if value <= limit { limit } else { value }
}

fn at_most(value: f32, limit: f32) -> f32 {
    if value > limit { limit } else { value }
}

/// Gives each element its norm's factor.
fn by_norm(
    shape: &[usize],
    values: &mut [f32],
    axes: &Axes,
    sums: &mut Vec<f64>,
    factor: impl Fn(f32) -> f32,
    apply: impl Fn(f32, f32) -> f32,
) -> Result<(), Error> {
    let layout = Layout::new(shape, axes)?;
    if values.is_empty() {
        return Ok(());
    }
    sums.clear();
    if sums.try_reserve_exact(layout.norms).is_err() {
        return Err(Error::OutOfMemory { what: "norms", elements: layout.norms });
    }
    sums.resize(layout.norms, 0.0_f64);
    layout.for_each(values, |value, norm| {
        if let Some(sum) = sums.get_mut(norm) {
            *sum += f64::from(*value * *value);
        }
    });
    for sum in sums.iter_mut() {
        *sum = f64::from(factor((*sum as f32).sqrt()));
    }
    layout.for_each(values, |value, norm| {
        if let Some(&factor) = sums.get(norm) {
            *value = apply(*value, factor as f32);
        }
    });
    Ok(())
}

/// Which norm each element of a row-major array belongs to.
struct Layout {
    /// The sides, and how far the norm's index moves along each: not at all along the axes of the norm.
    sides: Vec<(usize, usize)>,
    norms: usize,
}

impl Layout {
    fn new(shape: &[usize], axes: &Axes) -> Result<Self, Error> {
        let mut summed = vec![matches!(axes, Axes::All); shape.len()];
        if let Axes::Of(axes) = axes {
            for &axis in axes {
                let index = if axis < 0 { axis.checked_add_unsigned(shape.len()) } else { Some(axis) };
                let place = index.and_then(|index| summed.get_mut(usize::try_from(index).ok()?));
                match place {
                    Some(summed) if !*summed => *summed = true,
                    Some(_) => return Err(Error::argument("axis", axis, "there once")),
                    // numpy lets a single number have an axis, and so a bias of one.
                    None if shape.is_empty() && axes.len() == 1 && (axis == 0 || axis == -1) => {}
                    None => {
                        let allowed = format!("an axis of the shape {shape:?}");
                        return Err(Error::argument("axis", axis, allowed));
                    }
                }
            }
        }
        let mut norms = 1_usize;
        let mut sides: Vec<_> = shape
            .iter()
            .zip(summed)
            .rev()
            .map(|(&side, summed)| {
                let stride = if summed { 0 } else { norms };
                if !summed {
                    // Only the shape of nothing can have a product that is too large, and it has no norms.
                    norms = norms.saturating_mul(side);
                }
                (side, stride)
            })
            .collect();
        sides.reverse();
        Ok(Layout { sides, norms })
    }

    /// In the order of memory.
    fn for_each(&self, values: &mut [f32], mut visit: impl FnMut(&mut f32, usize)) {
        let Some((&(row, stride), outer)) = self.sides.split_last() else {
            values.iter_mut().for_each(|value| visit(value, 0));
            return;
        };
        let mut place = vec![0; outer.len()];
        let mut norm = 0;
        for row in values.chunks_mut(row.max(1)) {
            for (column, value) in row.iter_mut().enumerate() {
                visit(value, norm + column * stride);
            }
            for (index, &(side, stride)) in place.iter_mut().zip(outer).rev() {
                *index += 1;
                norm += stride;
                if *index < side {
                    break;
                }
                norm -= stride * side;
                *index = 0;
            }
        }
    }
}
