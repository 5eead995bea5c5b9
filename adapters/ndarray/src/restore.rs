//! Checkpoints: always row-major, so that they fit arrays in any order, and every other program.

use lion::TensorBuf;
use lion::checkpoint::{Checkpoint, SavedVariable, Tensor};

use crate::format::View;
use crate::order::Order;
use crate::{Error, Lion};

impl Lion {
    /// All that the optimizer knows, as [`lion::Lion::checkpoint`] has it. The state of a variable that is row-major is
    /// borrowed, that of any other is a copy.
    ///
    /// # Errors
    /// Memory that cannot be had.
    pub fn checkpoint(&self) -> Result<Checkpoint<'_>, Error> {
        let mut checkpoint = self.core.checkpoint()?;
        for saved in &mut checkpoint.variables {
            if let Some(order) = self.order(&saved.name) {
                reorder(saved, &order.inverse())?;
            }
        }
        Ok(checkpoint)
    }

    /// Goes on from a checkpoint of the same variables, whatever the layouts of their arrays were.
    ///
    /// # Errors
    /// As [`lion::Lion::restore`], and memory that cannot be had. Nothing has been changed then.
    pub fn restore(&mut self, checkpoint: &Checkpoint<'_>) -> Result<(), Error> {
        let mut variables: Vec<_> = checkpoint.variables.iter().map(borrowed).collect();
        for saved in &mut variables {
            if let Some(order) = self.order(&saved.name) {
                reorder(saved, order)?;
            }
        }
        let config_json = checkpoint.config_json.clone();
        Ok(self.core.restore(&Checkpoint { variables, config_json, ..*checkpoint })?)
    }

    /// That of the variable of this name, where it is not row-major.
    fn order(&self, name: &str) -> Option<&Order> {
        self.core.variable(name).and_then(|id| self.orders.get(&id))
    }
}

fn borrowed<'a>(saved: &'a SavedVariable<'_>) -> SavedVariable<'a> {
    let tensor = |tensor: &'a Option<Tensor<'_>>| tensor.as_ref().map(|tensor| tensor.to_ref().into());
    SavedVariable {
        parameter: tensor(&saved.parameter),
        momentum: tensor(&saved.momentum),
        ema: tensor(&saved.ema),
        accumulator: tensor(&saved.accumulator),
        shard: saved.shard.clone(),
        ..SavedVariable::new(&saved.name, &saved.shape)
    }
}

/// Puts the axes of a variable's state in another order. A state that does not have these axes is not the variable's,
/// and left alone for the core to refuse.
fn reorder(saved: &mut SavedVariable<'_>, order: &Order) -> Result<(), Error> {
    let SavedVariable { shape, parameter, momentum, ema, accumulator, .. } = saved;
    if !order.has_axes(shape.len()) {
        return Ok(());
    }
    for tensor in [parameter, momentum, ema, accumulator].into_iter().flatten() {
        let Some(view) = View::of(tensor.to_ref(), shape) else { return Ok(()) };
        let mut values =
            TensorBuf::zeroed(tensor.dtype(), tensor.to_ref().len()).map_err(lion::Error::from)?;
        view.gather(order, &mut values);
        *tensor = Tensor::Owned(values);
    }
    *shape = order.of_shape(shape);
    Ok(())
}
