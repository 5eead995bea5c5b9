//! Checkpoints in row-major order, so that they fit arrays in any order, and other programs.

use half::{bf16, f16};
use lion::checkpoint::{Checkpoint, SavedVariable, Tensor};
use lion::{TensorBuf, TensorRef};
use ndarray::{ArrayViewD, ArrayViewMutD, IxDyn};

use crate::order::Order;
use crate::{Error, Lion};

impl Lion {
    /// Returns the optimizer's state as a checkpoint, as [`lion::Lion::checkpoint`] does. The state of a row-major
    /// variable is borrowed; the state of any other variable is copied.
    ///
    /// # Errors
    /// An allocation fails.
    pub fn checkpoint(&self) -> Result<Checkpoint<'_>, Error> {
        let mut checkpoint = self.core.checkpoint()?;
        for saved in &mut checkpoint.variables {
            if let Some(order) = self.order(&saved.name) {
                reorder(saved, &order.inverse())?;
            }
        }
        Ok(checkpoint)
    }

    /// Restores a checkpoint of the same variables, whose arrays may have had other layouts.
    ///
    /// # Errors
    /// As [`lion::Lion::restore`], or a failed allocation. On an error nothing has changed.
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

    /// Returns the order of the variable of this name, if it is not row-major.
    fn order(&self, name: &str) -> Option<&Order> {
        self.core.variable(name).and_then(|id| self.orders.get(&id))
    }
}

fn borrowed<'a>(saved: &'a SavedVariable<'_>) -> SavedVariable<'a> {
    let tensor = |tensor: &'a Option<Tensor<'_>>| tensor.as_ref().map(|tensor| tensor.to_ref().into());
    SavedVariable {
        parameter: tensor(&saved.parameter),
        momentum: tensor(&saved.momentum),
        low: tensor(&saved.low),
        ema: tensor(&saved.ema),
        accumulator: tensor(&saved.accumulator),
        shard: saved.shard.clone(),
        ..SavedVariable::new(&saved.name, &saved.shape)
    }
}

/// Reorders the axes of a variable's state. A state with another number of axes does not belong to the variable; it is
/// left unchanged, and the core reports the error.
fn reorder(saved: &mut SavedVariable<'_>, order: &Order) -> Result<(), Error> {
    let SavedVariable { shape, parameter, momentum, low, ema, accumulator, .. } = saved;
    if !order.has_axes(shape.len()) {
        return Ok(());
    }
    for tensor in [parameter, momentum, low, ema, accumulator].into_iter().flatten() {
        let Some(values) = reordered(tensor.to_ref(), shape, order)? else { return Ok(()) };
        *tensor = Tensor::Owned(values);
    }
    *shape = order.of_shape(shape);
    Ok(())
}

/// Returns the elements of an array of that shape, with its axes in another order. Returns `None` if they do not fill
/// the shape, or if the dtype has blocks, which only row-major variables have.
fn reordered(tensor: TensorRef<'_>, shape: &[usize], order: &Order) -> Result<Option<TensorBuf>, Error> {
    let mut values = TensorBuf::zeroed(tensor.dtype(), tensor.len()).map_err(lion::Error::from)?;
    macro_rules! copied {
        ($($type:ty)+) => {
            $(if let (Some(from), Some(to)) = (tensor.as_slice::<$type>(), values.to_mut().into_slice()) {
                copy(from, to, shape, order)
            } else)+ { None }
        };
    }
    Ok(copied!(f32 f16 bf16 i16).map(|()| values))
}

fn copy<T: Clone>(from: &[T], to: &mut [T], shape: &[usize], order: &Order) -> Option<()> {
    let from = order.of(ArrayViewD::from_shape(IxDyn(shape), from).ok()?);
    ArrayViewMutD::from_shape(from.raw_dim(), to).ok()?.assign(&from);
    Some(())
}
