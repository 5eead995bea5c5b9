//! The arrays of one call: read under the GIL, checked against each other, and lent to the core without it.

use lion::{TensorMut, Update, VariableId};
use lion_kernels::TensorBuf;
use pyo3::prelude::*;

use crate::tensor::Tensor;
use crate::{dlpack, error};

/// A variable and the caller's array.
#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) id: VariableId,
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) array: Py<PyAny>,
}

/// What a call does to the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A variable's arrays in one call.
#[derive(Debug)]
struct Given {
    id: VariableId,
    parameter: Tensor,
    /// The parameter in row-major order, if its own is another.
    dense: Option<TensorBuf>,
    gradient: Option<Gradient>,
}

#[derive(Debug)]
enum Gradient {
    Borrowed(Tensor),
    /// In row-major order, and apart from every parameter.
    Copied(TensorBuf),
}

/// All arrays of a call.
#[derive(Debug, Default)]
pub(crate) struct Call {
    given: Vec<Given>,
}

/// Reads an array that must have the variable's shape.
pub(crate) fn read(role: &str, variable: &Variable, array: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    let py = array.py();
    let name = &variable.name;
    let tensor = dlpack::read(array).map_err(|error| {
        let message = format!("the {role} of {name:?} {}", error.value(py));
        error.get_type(py).call1((message,)).map_or_else(|error| error, PyErr::from_value)
    })?;
    if tensor.shape != variable.shape {
        let (found, expected) = (&tensor.shape, &variable.shape);
        let message =
            format!("the {role} of {name:?} has the shape {found:?}; its variable has {expected:?}");
        return Err(error::tensor(py, &message));
    }
    if tensor.is_null() {
        return Err(error::tensor(py, &format!("the {role} of {name:?} has no memory: its address is null")));
    }
    Ok(tensor)
}

impl Call {
    /// Reads the arrays of variables, each with its gradient if there is one.
    pub(crate) fn read<'v, 'py>(
        py: Python<'py>,
        access: Access,
        arrays: impl Iterator<Item = (&'v Variable, Option<Bound<'py, PyAny>>)>,
    ) -> PyResult<Self> {
        let mut given = Vec::new();
        let mut names = Vec::new();
        for (variable, gradient) in arrays {
            let parameter = read("parameter", variable, variable.array.bind(py))?;
            if access == Access::Write && !parameter.writable {
                let message =
                    format!("the parameter of {:?} is read-only; expected a writable array", variable.name);
                return Err(error::tensor(py, &message));
            }
            let gradient = gradient.map(|gradient| read("gradient", variable, &gradient)).transpose()?;
            names.push(&variable.name);
            given.push(Given {
                id: variable.id,
                parameter,
                dense: None,
                gradient: gradient.map(Gradient::Borrowed),
            });
        }
        let mut call = Call { given };
        call.separate(py, &names)?;
        Ok(call)
    }

    /// Refuses parameters that share memory, and copies gradients that share memory with a parameter or are not dense.
    fn separate(&mut self, py: Python<'_>, names: &[&String]) -> PyResult<()> {
        let of_kernels = |error| error::kernels(py, error);
        let mut spans: Vec<_> = self.given.iter().map(|it| it.parameter.span()).zip(0..).collect();
        spans.retain(|(span, _)| !span.is_empty());
        spans.sort_unstable_by_key(|(span, _)| span.start);
        for pair in spans.windows(2) {
            if let [(first, one), (second, other)] = pair
                && second.start < first.end
                && let (Some(one), Some(other)) = (names.get(*one), names.get(*other))
            {
                let message = format!(
                    "the parameters of {one:?} and {other:?} share memory; expected memory of their own"
                );
                return Err(error::tensor(py, &message));
            }
        }
        for it in &mut self.given {
            if !it.parameter.is_dense() {
                it.dense = Some(it.parameter.to_dense().map_err(of_kernels)?);
            }
            let Some(Gradient::Borrowed(gradient)) = &it.gradient else { continue };
            let span = gradient.span();
            // The spans do not overlap, so their ends are in order too.
            let after = spans.partition_point(|(other, _)| other.end <= span.start);
            let shares =
                spans.get(after).is_some_and(|(other, _)| other.start < span.end) && !span.is_empty();
            if shares || !gradient.is_dense() {
                it.gradient = Some(Gradient::Copied(gradient.to_dense().map_err(of_kernels)?));
            }
        }
        Ok(())
    }

    /// Lends the arrays to work of the core. What the work does to a parameter is in the caller's array if it succeeds.
    pub(crate) fn lend<T>(
        &mut self,
        work: impl FnOnce(&mut [Update<'_>]) -> Result<T, lion::Error>,
    ) -> Result<T, lion::Error> {
        let mut updates = Vec::with_capacity(self.given.len());
        for Given { id, parameter, dense, gradient } in &mut self.given {
            let parameter: TensorMut<'_> = match dense {
                Some(dense) => dense.to_mut(),
                // SAFETY: the parameters share memory neither with each other nor with a gradient that is lent: `separate`
                // has seen to it.
                None => unsafe { parameter.to_mut() },
            };
            updates.push(match gradient {
                None => Update::without_gradient(*id, parameter),
                Some(Gradient::Borrowed(gradient)) => Update::new(*id, parameter, gradient.to_ref()),
                Some(Gradient::Copied(gradient)) => Update::new(*id, parameter, gradient.to_ref()),
            });
        }
        let done = work(&mut updates)?;
        drop(updates);
        for Given { parameter, dense, .. } in &mut self.given {
            if let Some(dense) = dense {
                parameter.write(dense);
            }
        }
        Ok(done)
    }

    /// The parameters in row-major order, in the order of the variables.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = lion::TensorRef<'_>> {
        self.given.iter().map(|it| it.dense.as_ref().map_or_else(|| it.parameter.to_ref(), TensorBuf::to_ref))
    }

    /// Overwrites a parameter. `place` is its variable's.
    pub(crate) fn write(&mut self, place: usize, values: &TensorBuf) {
        if let Some(it) = self.given.get_mut(place) {
            it.parameter.write(values);
        }
    }
}
