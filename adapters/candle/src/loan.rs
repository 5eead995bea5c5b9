//! Temporary ownership of a variable's elements during a call.
//!
//! candle gives mutable access to a storage only to an operation on one variable, but a call of the optimizer updates
//! all variables together. So one operation replaces the storage's vector by an empty one, and another puts it back,
//! even if the call fails. No element is copied.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, bail};
use lion::TensorMut;

use crate::variable::Variable;

/// A variable's storage. Dropping the loan puts it back.
pub(crate) struct Loan<'a> {
    variable: &'a Variable,
    storage: CpuStorage,
}

impl<'a> Loan<'a> {
    pub(crate) fn take(variable: &'a Variable) -> Result<Self> {
        let storage = exchange(&variable.storage, CpuStorage::F32(Vec::new()))?;
        Ok(Loan { variable, storage })
    }

    /// Returns the variable's elements. Fails if another loan holds them.
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
        // Not expected to fail: the same exchange succeeded when the storage was taken.
        if let Err(error) = exchange(&self.variable.storage, storage) {
            log::error!("variable {:?} has lost its elements: {error}", self.variable.name);
        }
    }
}

/// Replaces a tensor's storage, and returns the old one.
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
