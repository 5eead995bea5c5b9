mod json;

use std::fmt;
use std::sync::Arc;

use lion_kernels::with_ieee_state;

use crate::variable::elements;
use crate::{Error, check};

/// A constraint that is applied to a parameter after each update: one of Keras's, or the caller's closure.
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
/// As in Keras, the squares, the root and all that follows are f32. The sum is f64, in memory order, and rounded once.
/// Keras sums in its backend's order, so the last bits may differ. Everything runs serially, with the same bits on every
/// machine.
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

/// The axes that a norm is taken over. The parameter has one norm for each index along the other axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Axes {
    /// All axes: one norm.
    All,
    /// These axes; negative ones count from the end.
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

/// Prevents division by a norm of zero: the default of `keras.config.epsilon()`.
const EPSILON: f32 = 1e-7;

impl Constraint {
    /// Keras's `NonNeg`: `max(w, 0)`. NaN stays, and -0 becomes +0.
    pub fn non_negative() -> Self {
        Constraint(Rule::NonNegative)
    }

    /// Keras's `MaxNorm`: `w * (clip(norm, 0, max_value) / (epsilon + norm))`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `max_value` is outside [0, inf).
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
    /// [`Error::Argument`] if `min_value` is outside [0, inf), `max_value` outside [min_value, inf) or `rate`
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

    /// Creates a constraint from a closure, which gets the shape, and the values in row-major order.
    pub fn from_fn(function: impl Fn(&[usize], &mut [f32]) + Send + Sync + 'static) -> Self {
        Constraint(Rule::Closure(Arc::new(function)))
    }

    /// Sets the epsilon, 1e-7 by default, as `keras.config.set_epsilon` does. It has no effect on constraints without a
    /// norm.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is outside (0, inf).
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

    /// Applies the constraint to the values, in row-major order.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of values does not match the shape; [`Error::Argument`] if an axis is outside the
    /// shape or repeated; [`Error::OutOfMemory`]. On an error the values are unchanged.
    pub fn apply(&self, shape: &[usize], values: &mut [f32]) -> Result<(), Error> {
        self.apply_with(shape, values, &mut Vec::new())
    }

    /// Returns the number of norms for a parameter of this shape: the length of the scratch memory.
    pub(crate) fn norms(&self, shape: &[usize]) -> Result<usize, Error> {
        match &self.0 {
            Rule::NonNegative | Rule::Closure(_) => Ok(0),
            Rule::MaxNorm { axes, .. } | Rule::UnitNorm { axes, .. } | Rule::MinMaxNorm { axes, .. } => {
                let empty = shape.contains(&0);
                Layout::new(shape, axes).map(|layout| if empty { 0 } else { layout.norms })
            }
        }
    }

    /// Returns whether each element is constrained on its own, so that it can apply to a part of a variable.
    pub(crate) fn is_elementwise(&self) -> bool {
        matches!(self.0, Rule::NonNegative)
    }

    /// [`apply`](Self::apply) with scratch memory that the caller keeps.
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

/// Keeps NaN, which `f32::max` would replace by the limit.
fn at_least(value: f32, limit: f32) -> f32 {
    if value <= limit { limit } else { value }
}

fn at_most(value: f32, limit: f32) -> f32 {
    if value > limit { limit } else { value }
}

/// Computes each norm, turns it into a factor, and applies that to the norm's elements.
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

/// Maps each element of a row-major array to the index of its norm.
struct Layout {
    /// For each axis its length, and the stride of the norm's index along it: 0 along the axes of the norm.
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
                    Some(_) => return Err(Error::argument("axis", axis, "given once")),
                    // numpy accepts axis 0 for a scalar, and so for a bias of one element.
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
                    // The product can overflow only if an axis is empty; then the norms are not used.
                    norms = norms.saturating_mul(side);
                }
                (side, stride)
            })
            .collect();
        sides.reverse();
        Ok(Layout { sides, norms })
    }

    /// Calls `visit` with each element and the index of its norm, in memory order.
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
