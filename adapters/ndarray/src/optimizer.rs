//! The optimizer: the core's, with what it must know of the arrays' layouts.

use std::collections::HashMap;

use lion::{Builder, Dtype, Metrics, TensorBuf, VariableId, VariableOptions};
use ndarray::{ArrayRef, Dimension};

use crate::format::{Format, View};
use crate::order::Order;
use crate::{Error, Update};

/// The Lion optimizer over named arrays.
///
/// A clone has the same variables, under the same ids, and a copy of their state.
#[derive(Clone, Debug)]
pub struct Lion {
    pub(crate) core: lion::Lion,
    /// Of the variables that are not row-major.
    pub(crate) orders: HashMap<VariableId, Order>,
    row_major: Order,
    /// By place in the call.
    copies: Vec<Copies>,
}

/// Copies of an update's arrays in the order of its variable, kept so that calls need not allocate.
#[derive(Clone, Debug, Default)]
struct Copies {
    parameter: Option<TensorBuf>,
    /// Whether this call moves the copy of the parameter, rather than the parameter.
    moves_copy: bool,
    gradient: Option<TensorBuf>,
}

impl Lion {
    /// The options, at Keras's defaults.
    pub fn builder() -> Builder {
        lion::Lion::builder()
    }

    /// An optimizer without variables.
    ///
    /// # Errors
    /// An option outside its range, which [`Builder::build`] finds.
    pub fn new(builder: Builder) -> Result<Self, Error> {
        Ok(Lion {
            core: builder.build()?,
            orders: HashMap::new(),
            row_major: Order::default(),
            copies: Vec::new(),
        })
    }

    /// Adds a variable with the shape, the format and the order of axes of `array`, and nothing special about it. Its
    /// state is zero.
    ///
    /// # Errors
    /// A name that is taken, or memory that cannot be had.
    pub fn register<A: Format, D: Dimension>(
        &mut self,
        name: &str,
        array: &ArrayRef<A, D>,
    ) -> Result<VariableId, Error> {
        self.register_with(name, array, VariableOptions::default())
    }

    /// Adds a variable with options.
    ///
    /// # Errors
    /// As [`register`](Self::register), and what [`lion::Lion::register_with`] refuses; [`Error::ConstrainedOrder`] for
    /// a constraint on an array that is not row-major.
    pub fn register_with<A: Format, D: Dimension>(
        &mut self,
        name: &str,
        array: &ArrayRef<A, D>,
        options: VariableOptions,
    ) -> Result<VariableId, Error> {
        let order = Order::new(array);
        if options.constraint.is_some() && !order.is_row_major() {
            return Err(Error::ConstrainedOrder { name: name.into(), strides: array.strides().into() });
        }
        let id = self.core.register_with(name, &order.of_shape(array.shape()), A::DTYPE, options)?;
        if !order.is_row_major() {
            self.orders.insert(id, order);
        }
        Ok(id)
    }

    /// The optimizer below: hyperparameters, groups, loss scale, the state of each variable. The shape of a variable
    /// is there in the order of its memory.
    pub fn core(&self) -> &lion::Lion {
        &self.core
    }

    /// The optimizer below, to be changed. A variable that is registered there is row-major.
    pub fn core_mut(&mut self) -> &mut lion::Lion {
        &mut self.core
    }

    /// Applies gradients to the variables of the call, each named at most once and in any order, as
    /// [`lion::Lion::apply`] does. In a call that names none nothing happens.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Dtype`] for arrays that are not those of their variables, and what
    /// [`lion::Lion::apply`] refuses. Nothing has been changed then.
    pub fn apply(&mut self, updates: &mut [Update<'_>]) -> Result<Metrics, Error> {
        self.call(updates, lion::Lion::apply)
    }

    /// Makes each parameter its moving average, as at the end of training. Without an average nothing happens;
    /// gradients are ignored, and nothing is counted.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn finalize_variable_values(&mut self, updates: &mut [Update<'_>]) -> Result<(), Error> {
        self.call(updates, lion::Lion::finalize_variable_values)
    }

    /// Makes a call of the core with the arrays as slices.
    fn call<T>(
        &mut self,
        updates: &mut [Update<'_>],
        work: impl FnOnce(&mut lion::Lion, &mut [lion::Update<'_>]) -> Result<T, lion::Error>,
    ) -> Result<T, Error> {
        for update in &*updates {
            self.check(update)?;
        }
        if self.copies.len() < updates.len() {
            self.copies.resize_with(updates.len(), Copies::default);
        }
        let (orders, row_major) = (&self.orders, &self.row_major);
        let order = |update: &Update<'_>| orders.get(&update.variable).unwrap_or(row_major);

        let mut slices = Vec::with_capacity(updates.len());
        for (update, copies) in updates.iter_mut().zip(&mut self.copies) {
            let order = order(update);
            copies.moves_copy = !update.parameter.lies_in(order);
            let parameter = match copies.moves_copy {
                true => Some(copy(&mut copies.parameter, &update.parameter.view(), order)?.to_mut()),
                false => update.parameter.slice_mut(order),
            };
            let Some(parameter) = parameter else { continue };
            slices.push(match &update.gradient {
                None => lion::Update::without_gradient(update.variable, parameter),
                Some(gradient) => {
                    let gradient = match gradient.slice(order) {
                        Some(gradient) => gradient,
                        None => copy(&mut copies.gradient, gradient, order)?.to_ref(),
                    };
                    lion::Update::new(update.variable, parameter, gradient)
                }
            });
        }
        let done = work(&mut self.core, &mut slices)?;
        for (update, copies) in updates.iter_mut().zip(&self.copies) {
            if let (true, Some(values)) = (copies.moves_copy, &copies.parameter) {
                update.parameter.scatter(order(update), values);
            }
        }
        Ok(done)
    }

    /// Whether the arrays are those of the variable. A variable that is none is the core's to refuse.
    fn check(&self, update: &Update<'_>) -> Result<(), Error> {
        let Some(variable) = self.core.view(update.variable) else { return Ok(()) };
        let order = self.orders.get(&update.variable).unwrap_or(&self.row_major);
        let fits = |tensor, shape: &[usize]| match order.has_shape(shape, variable.shape) {
            true => Ok(()),
            false => Err(Error::Shape {
                name: variable.name.into(),
                tensor,
                found: shape.into(),
                expected: order.inverse().of_shape(variable.shape),
            }),
        };
        fits("parameter", update.parameter.shape())?;
        if let Some(gradient) = &update.gradient {
            fits("gradient", gradient.shape())?;
        }
        let (found, expected) = (update.parameter.dtype(), variable.dtype);
        match found == expected {
            true => Ok(()),
            false => Err(Error::Dtype { name: variable.name.into(), found, expected }),
        }
    }
}

/// Copies an array that does not lie in memory as its variable's state does, to where the last call did.
fn copy<'a>(
    kept: &'a mut Option<TensorBuf>,
    array: &View<'_>,
    order: &Order,
) -> Result<&'a mut TensorBuf, Error> {
    let (dtype, len): (Dtype, usize) = (array.dtype(), array.shape().iter().product());
    let values = match kept.take() {
        Some(values) if values.dtype() == dtype && values.len() == len => values,
        _ => TensorBuf::zeroed(dtype, len).map_err(lion::Error::from)?,
    };
    let values = kept.insert(values);
    array.gather(order, values);
    Ok(values)
}
