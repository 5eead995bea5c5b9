//! The gradients of a step: checks them and passes their storages to the optimizer as slices.

use std::borrow::Cow;
use std::ops::{Deref, Range};

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, Result, Storage, Tensor, bail};
use lion::TensorRef;

use crate::threads::{AHEAD, are_few, each, try_each};
use crate::variable::{Record, Variable, dtype, fetch};

/// A gradient that fits its variable.
pub(crate) struct Gradient<'a> {
    /// candle's tensor if it is contiguous, otherwise a contiguous copy.
    tensor: Cow<'a, Tensor>,
    /// The range of the tensor's elements in the storage.
    elements: Range<usize>,
    /// The address of the storage's record, if there are enough gradients to prefetch it.
    record: Option<Record>,
}

/// Returns the gradient of each variable, or `None` if it has none.
///
/// # Errors
/// If a gradient has another shape than its variable, is not F32, F16 or BF16, or is on another device than the CPU.
pub(crate) fn of<'a>(variables: &[Variable], store: &'a GradStore) -> Result<Vec<Option<Gradient<'a>>>> {
    if are_few(variables.len()) {
        let gradient = |variable: &Variable| {
            store.get_id(variable.tensor).map(|gradient| Gradient::new(variable, gradient)).transpose()
        };
        return variables.iter().map(gradient).collect();
    }
    let found = each(variables, |_| (), |variable| (variable, store.get_id(variable.tensor)));
    let fetch = |place: usize| {
        // The tensor's record holds the addresses of its shape and strides, so it is fetched earlier.
        if let Some((variable, Some(gradient))) = found.get(place + AHEAD) {
            fetch(&***gradient);
            variable.fetch_shape();
        }
        if let Some((_, Some(gradient))) = found.get(place) {
            fetch(gradient.dims());
            fetch(gradient.stride());
        }
    };
    try_each(&found[..], fetch, |&(variable, gradient)| match gradient {
        Some(gradient) => Gradient::new(variable, gradient).map(Gradient::with_record).map(Some),
        None => Ok(None),
    })
}

impl<'a> Gradient<'a> {
    fn new(variable: &Variable, gradient: &'a Tensor) -> Result<Self> {
        let Variable { name, shape, .. } = variable;
        if gradient.shape() != shape {
            let (found, expected) = (gradient.dims(), shape.dims());
            bail!(
                "variable {name:?}: the gradient has the shape {found:?}, and the variable has {expected:?}"
            );
        }
        if dtype(gradient.dtype()).is_none() {
            let found = gradient.dtype();
            bail!("variable {name:?}: the gradient is {found:?}, and must be F32, F16 or BF16");
        }
        if !gradient.device().is_cpu() {
            let device = gradient.device().location();
            bail!("variable {name:?}: the gradient is on {device:?}, and must be on the CPU");
        }
        let tensor = match gradient.is_contiguous() {
            true => Cow::Borrowed(gradient),
            false => Cow::Owned(gradient.contiguous()?),
        };
        let start = tensor.layout().start_offset();
        let elements = start..start + tensor.elem_count();
        Ok(Gradient { tensor, elements, record: None })
    }

    fn with_record(self) -> Self {
        Gradient { record: Some(Record::of(&self.tensor)), ..self }
    }

    /// Returns the elements. Fails if the storage belongs to a variable, because a loan then holds its elements.
    pub(crate) fn slice<'s>(&self, variable: &Variable, storage: &'s Storage) -> Result<TensorRef<'s>> {
        let elements = self.elements.clone();
        let slice = match storage {
            Storage::Cpu(CpuStorage::F32(values)) => values.get(elements).map(TensorRef::from),
            Storage::Cpu(CpuStorage::F16(values)) => values.get(elements).map(TensorRef::from),
            Storage::Cpu(CpuStorage::BF16(values)) => values.get(elements).map(TensorRef::from),
            _ => None,
        };
        match slice {
            Some(slice) => Ok(slice),
            None => bail!("variable {:?}: its gradient shares its storage with a variable", variable.name),
        }
    }
}

/// Locks the storages for reading. A thread can only release locks that it has taken itself, so one thread does all of
/// this work.
pub(crate) fn lock<'g>(
    gradients: &'g [Option<Gradient<'_>>],
) -> Vec<Option<impl Deref<Target = Storage> + Sync + use<'g>>> {
    let lock = |(place, gradient): (usize, &'g Option<Gradient<'_>>)| {
        if let Some(Some(Gradient { record: Some(ahead), .. })) = gradients.get(place + AHEAD) {
            ahead.fetch();
        }
        gradient.as_ref().map(|gradient| gradient.tensor.storage_and_layout().0)
    };
    gradients.iter().enumerate().map(lock).collect()
}

/// Releases the storages that [`lock`] has locked.
pub(crate) fn unlock(mut locks: Vec<Option<impl Deref<Target = Storage>>>) {
    while let Some(lock) = locks.pop() {
        if let Some(Some(ahead)) = locks.len().checked_sub(AHEAD).and_then(|place| locks.get(place)) {
            fetch(&**ahead);
        }
        drop(lock);
    }
}
