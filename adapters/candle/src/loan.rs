//! The elements of a variable, taken for the time of a call.
//!
//! candle lends a variable's storage for writing to one operation on that variable alone, and a call of the optimizer
//! moves all variables together. So an operation takes the storage's vector out, for an empty one, and another puts it
//! back, whatever happens between. No element is copied.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, bail};
use lion::TensorMut;

use crate::variable::Variable;

/// A variable's storage. It is back in its place when this is dropped.
pub(crate) struct Loan<'a> {
    variable: &'a Variable,
    storage: CpuStorage,
}

impl<'a> Loan<'a> {
    pub(crate) fn take(variable: &'a Variable) -> Result<Self> {
        let storage = exchange(&variable.storage, CpuStorage::F32(Vec::new()))?;
        Ok(Loan { variable, storage })
    }

    /// The variable's elements. There are none to be had where another loan has them.
    pub(crate) fn slice(&mut self) -> Result<TensorMut<'_>> {
        let elements = self.variable.elements.clone();
        let slice = match &mut self.storage {
            CpuStorage::F32(values) => values.get_mut(elements).map(TensorMut::from),
            CpuStorage::F16(values) => values.get_mut(elements).map(TensorMut::from),
            CpuStorage::BF16(values) => values.get_mut(elements).map(TensorMut::from),
            _ => None,
        };
        match slice {
            Some(slice) => Ok(slice),
            None => {
                bail!("variable {:?}: it shares its storage with another variable", self.variable.name)
            }
        }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let storage = std::mem::replace(&mut self.storage, CpuStorage::F32(Vec::new()));
        // It has worked on the way out.
        if let Err(error) = exchange(&self.variable.storage, storage) {
            log::error!("variable {:?} has lost its elements: {error}", self.variable.name);
        }
    }
}

/// Gives a tensor another storage, for its own.
fn exchange(tensor: &Tensor, storage: CpuStorage) -> Result<CpuStorage> {
    let exchange = Exchange(Cell::new(Some(storage)));
    tensor.inplace_op1(&exchange)?;
    match exchange.0.into_inner() {
        Some(storage) => Ok(storage),
        None => bail!("candle did not run the operation {:?}", Exchange::NAME),
    }
}

struct Exchange(Cell<Option<CpuStorage>>);

impl Exchange {
    const NAME: &'static str = "exchange of storages";
}

impl InplaceOp1 for Exchange {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        if let Some(other) = self.0.take() {
            self.0.set(Some(std::mem::replace(storage, other)));
        }
        Ok(())
    }
}
