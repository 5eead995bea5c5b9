//! Conversion of a parameter to and from f32, including the low halves that the optimizer stores.

use candle_core::{DType, Device, Error, Result, Tensor, bail};
use lion::VariableId;

use crate::Lion;
use crate::loan::Loan;
use crate::variable::Variable;

impl Lion {
    /// Returns the parameter as an f32 tensor, with its low halves if it has some (`split_master`). This is exact for
    /// every dtype.
    ///
    /// # Errors
    /// A variable that the optimizer does not have, or a failed allocation.
    pub fn parameter_to_f32(&self, variable: VariableId) -> Result<Tensor> {
        let found = known(&self.variables, variable)?;
        let mut values = vec![0.0; found.shape.elem_count()];
        let mut loan = Loan::take(found)?;
        self.core.parameter_to_f32(variable, loan.slice()?, &mut values).map_err(Error::wrap)?;
        Tensor::from_vec(values, &found.shape, &Device::Cpu)
    }

    /// Stores an f32 tensor as the parameter: exactly if the variable has low halves, which are set too, and otherwise
    /// rounded to nearest even.
    ///
    /// # Errors
    /// A variable that the optimizer does not have, or a tensor of another shape or dtype. On an error nothing has
    /// changed.
    pub fn parameter_from_f32(&mut self, variable: VariableId, values: &Tensor) -> Result<()> {
        let found = known(&self.variables, variable)?;
        let (name, shape) = (&found.name, &found.shape);
        if (values.dtype(), values.shape()) != (DType::F32, shape) {
            let (dtype, dims) = (values.dtype(), values.dims());
            bail!("variable {name:?}: the values are {dtype:?} {dims:?}; expected F32 {:?}", shape.dims());
        }
        let values: Vec<f32> = values.flatten_all()?.to_vec1()?;
        let mut loan = Loan::take(found)?;
        self.core.parameter_from_f32(variable, &values, loan.slice()?).map_err(Error::wrap)
    }
}

fn known(variables: &[Variable], id: VariableId) -> Result<&Variable> {
    match variables.iter().find(|variable| variable.id == id) {
        Some(found) => Ok(found),
        None => bail!("variable id {} does not exist in this optimizer", id.index()),
    }
}
