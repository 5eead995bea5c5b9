//! The optimizer: the core's optimizer, with the layouts of the arrays.

use std::collections::HashMap;

use lion::{Builder, Dtype, Metrics, TensorBuf, VariableId, VariableOptions, VariableView};
use ndarray::{ArrayD, ArrayRef, Dimension};

use crate::format::{Format, View};
use crate::order::Order;
use crate::{Error, Update};

/// The Lion optimizer over named arrays.
///
/// A clone has the same variables, under the same ids, and a copy of their state.
#[derive(Clone, Debug)]
pub struct Lion {
    pub(crate) core: lion::Lion,
    /// The orders of the variables that are not row-major.
    pub(crate) orders: HashMap<VariableId, Order>,
    row_major: Order,
    /// The copies for each position in the list of updates.
    copies: Vec<Copies>,
}

/// Copies of an update's arrays in the variable's order. They are reused, so that later calls do not allocate.
#[derive(Clone, Debug, Default)]
struct Copies {
    parameter: Option<TensorBuf>,
    /// Whether this call updates the copy instead of the parameter.
    moves_copy: bool,
    gradient: Option<TensorBuf>,
}

impl Lion {
    /// Returns a builder with Keras's defaults.
    pub fn builder() -> Builder {
        lion::Lion::builder()
    }

    /// Creates an optimizer without variables.
    ///
    /// # Errors
    /// An option outside its range, which [`Builder::build`] reports.
    pub fn new(builder: Builder) -> Result<Self, Error> {
        Ok(Lion {
            core: builder.build()?,
            orders: HashMap::new(),
            row_major: Order::default(),
            copies: Vec::new(),
        })
    }

    /// Adds a variable with the shape, the dtype and the order of axes of `array`, and with default options. Its state
    /// is zero.
    ///
    /// # Errors
    /// A name that already exists, or a failed allocation.
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
    /// As [`register`](Self::register), and the errors of [`lion::Lion::register_with`].
    pub fn register_with<A: Format, D: Dimension>(
        &mut self,
        name: &str,
        array: &ArrayRef<A, D>,
        options: VariableOptions,
    ) -> Result<VariableId, Error> {
        let order = if self.counts_elements(&options) { Order::default() } else { Order::new(array) };
        let id = self.core.register_with(name, &order.of_shape(array.shape()), A::DTYPE, options)?;
        if !order.is_row_major() {
            self.orders.insert(id, order);
        }
        Ok(id)
    }

    /// Returns whether the results depend on the order of the elements, so that the variable must be row-major. A
    /// constraint counts axes, an 8-bit momentum has a scale per block, and random numbers depend on the element's
    /// index.
    fn counts_elements(&self, options: &VariableOptions) -> bool {
        let config = self.core.config();
        let momentum_dtype = options.momentum_dtype.or(config.momentum_dtype);
        options.constraint.is_some()
            || momentum_dtype.is_some_and(|dtype| dtype.block() > 1)
            || (config.stochastic_rounding.is_some() && !options.nearest_rounding)
    }

    /// Returns the core's optimizer: hyperparameters, groups, loss scale, the state of each variable. There, a
    /// variable's shape is in memory order.
    pub fn core(&self) -> &lion::Lion {
        &self.core
    }

    /// Returns the core's optimizer, to change it. A variable that is registered there is row-major.
    pub fn core_mut(&mut self) -> &mut lion::Lion {
        &mut self.core
    }

    /// Applies gradients to the given variables, each at most once and in any order, as [`lion::Lion::apply`] does.
    /// Does nothing without updates.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Dtype`] for arrays that do not match their variables, and the errors of
    /// [`lion::Lion::apply`]. On an error nothing has changed.
    pub fn apply(&mut self, updates: &mut [Update<'_>]) -> Result<Metrics, Error> {
        self.call(updates, lion::Lion::apply)
    }

    /// Sets each parameter to its moving average, as at the end of training. Does nothing without a moving average.
    /// Ignores gradients, and does not count as a step.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn finalize_variable_values(&mut self, updates: &mut [Update<'_>]) -> Result<(), Error> {
        self.call(updates, lion::Lion::finalize_variable_values)
    }

    /// Returns the parameter as f32, with its low halves if it has some (`split_master`). This is exact for every
    /// dtype.
    ///
    /// # Errors
    /// An array that does not match the variable, or a failed allocation.
    pub fn parameter_to_f32<A: Format, D: Dimension>(
        &self,
        variable: VariableId,
        parameter: &ArrayRef<A, D>,
    ) -> Result<ArrayD<f32>, Error> {
        let parameter = A::view(parameter.view().into_dyn());
        self.check_parameter(variable, parameter.shape(), A::DTYPE)?;
        let (order, mut kept) = (self.order_of(variable), None);
        let elements = match parameter.slice(order) {
            Some(elements) => elements,
            None => copy(&mut kept, &parameter, order)?.to_ref(),
        };
        let mut values = ArrayD::zeros(order.of_shape(parameter.shape()));
        if let Some(values) = values.as_slice_mut() {
            self.core.parameter_to_f32(variable, elements, values)?;
        }
        Ok(values.permuted_axes(order.inverse().axes(parameter.shape().len())))
    }

    /// Stores values as the parameter: exactly if the variable has low halves, which are set too, and otherwise rounded
    /// to nearest even.
    ///
    /// # Errors
    /// An array that does not have the variable's shape and dtype, or a failed allocation. On an error nothing has
    /// changed.
    pub fn parameter_from_f32<A: Format, D: Dimension, E: Dimension>(
        &mut self,
        variable: VariableId,
        values: &ArrayRef<f32, E>,
        parameter: &mut ArrayRef<A, D>,
    ) -> Result<(), Error> {
        let (values, mut parameter) =
            (f32::view(values.view().into_dyn()), A::view_mut(parameter.view_mut().into_dyn()));
        self.check_shape(variable, "array of values", values.shape())?;
        self.check_parameter(variable, parameter.shape(), A::DTYPE)?;
        let order = self.order_of(variable).clone();
        let (mut kept_values, mut kept) = (None, None);
        let values = copy(&mut kept_values, &values, &order)?.to_ref().to_f32();
        match parameter.slice_mut(&order) {
            Some(elements) => self.core.parameter_from_f32(variable, &values, elements)?,
            None => {
                let elements = copy(&mut kept, &parameter.view(), &order)?;
                self.core.parameter_from_f32(variable, &values, elements.to_mut())?;
                parameter.scatter(&order, elements);
            }
        }
        Ok(())
    }

    /// Calls the core with the arrays as slices.
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

    fn order_of(&self, variable: VariableId) -> &Order {
        self.orders.get(&variable).unwrap_or(&self.row_major)
    }

    /// Checks that the arrays match the variable. The core reports an unknown variable.
    fn check(&self, update: &Update<'_>) -> Result<(), Error> {
        self.check_parameter(update.variable, update.parameter.shape(), update.parameter.dtype())?;
        match &update.gradient {
            Some(gradient) => self.check_shape(update.variable, "gradient", gradient.shape()),
            None => Ok(()),
        }
    }

    fn check_parameter(&self, variable: VariableId, shape: &[usize], found: Dtype) -> Result<(), Error> {
        self.check_shape(variable, "parameter", shape)?;
        match self.core.view(variable) {
            Some(VariableView { name, dtype: expected, .. }) if found != expected => {
                Err(Error::Dtype { name: name.into(), found, expected })
            }
            _ => Ok(()),
        }
    }

    fn check_shape(&self, variable: VariableId, tensor: &'static str, found: &[usize]) -> Result<(), Error> {
        let Some(VariableView { name, shape, .. }) = self.core.view(variable) else { return Ok(()) };
        let order = self.order_of(variable);
        match order.has_shape(found, shape) {
            true => Ok(()),
            false => Err(Error::Shape {
                name: name.into(),
                tensor,
                found: found.into(),
                expected: order.inverse().of_shape(shape),
            }),
        }
    }
}

/// Copies an array in the variable's order, into the previous copy's memory if it fits.
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
