//! Recorded runs: the parameters that a training began with and the gradients of each of its calls, in one file.
//!
//! A run has tensors `param/<name>` and `grad/<step>/<name>`, with the step in decimal, from 0; where one is not there,
//! the gradient is missing in that call. Names may hold dots and slashes. The run has one call more than its last step.
//!
//! The variables are in the order of the bytes of their names. That order is part of the result: it is the one in which
//! a norm over all gradients is summed.

use std::collections::BTreeMap;
use std::path::Path;

use lion_kernels::{Dtype, Role, TensorRef};

use crate::tensor_file::{TensorFile, TensorInfo};
use crate::{Error, Lion, TensorBuf, Update, VariableId};

/// A recorded run, open for reading: all of its names, shapes and formats have been checked, its elements are read a
/// step at a time.
#[derive(Debug)]
pub struct Recording {
    file: TensorFile,
    variables: Vec<TensorInfo>,
    /// For each call, the gradients that there are, by the index of their variable.
    steps: Vec<Vec<(usize, TensorInfo)>>,
}

/// The gradients of one call, in memory that is used again for the next.
#[derive(Debug, Default)]
pub struct Gradients {
    /// By variable: whether there is one, and the memory for it.
    buffers: Vec<(bool, Option<TensorBuf>)>,
}

const PARAMETER: &str = "param/";
const GRADIENT: &str = "grad/";

impl Recording {
    /// Opens a run and checks all that its header says.
    ///
    /// # Errors
    /// Those of [`TensorFile::open`]; [`Error::File`] for a tensor of another name, a gradient without a parameter
    /// or of another shape, and a step without any gradient.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let file = TensorFile::open(path)?;
        // The file's order is that of the names with their prefix, and so that of the names.
        let is_parameter = |tensor: &&TensorInfo| tensor.name().starts_with(PARAMETER);
        let variables: Vec<_> = file.tensors().iter().filter(is_parameter).cloned().collect();
        if variables.is_empty() {
            return Err(file.error(None, "is no recorded run: it has no tensor param/<name>"));
        }
        if let Some(tensor) = file.tensors().iter().find(|tensor| !tensor.dtype().fits(Role::Gradient)) {
            let reason = format!("is {}, and must be one of f32, f16, bf16", tensor.dtype());
            return Err(file.error(Some(tensor.name()), reason));
        }
        let mut steps = BTreeMap::<u64, BTreeMap<usize, TensorInfo>>::new();
        for tensor in file.tensors() {
            let wrong = |reason: String| file.error(Some(tensor.name()), reason);
            let gradient = tensor.name().strip_prefix(GRADIENT).and_then(|rest| rest.split_once('/'));
            let (step, name) = match (gradient, tensor.name().strip_prefix(PARAMETER)) {
                (_, Some(name)) if !name.is_empty() => continue,
                (Some((step, name)), _) if !name.is_empty() => (step, name),
                _ => return Err(wrong("is neither param/<name> nor grad/<step>/<name>".into())),
            };
            let digits = !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
            let Some(step) = step.parse::<u64>().ok().filter(|_| digits) else {
                return Err(wrong("its step is not a whole number in decimal digits".into()));
            };
            let index = variables.binary_search_by(|variable| name_of(variable).cmp(name));
            let Some((index, variable)) = index.ok().and_then(|index| Some((index, variables.get(index)?)))
            else {
                return Err(wrong(format!("is the gradient of a variable that has no {PARAMETER}{name}")));
            };
            if variable.shape() != tensor.shape() {
                let (found, expected) = (tensor.shape(), variable.shape());
                let reason = format!("has the shape {found:?}, and {} has {expected:?}", variable.name());
                return Err(wrong(reason));
            }
            if steps.entry(step).or_default().insert(index, tensor.clone()).is_some() {
                return Err(wrong("this step has the gradient twice".into()));
            }
        }
        // So that the number of calls is not a matter of trust.
        if let Some((expected, _)) = (0..).zip(steps.keys()).find(|(expected, step)| expected != *step) {
            let last = steps.keys().next_back().copied().unwrap_or_default();
            let reason = format!("the run goes to step {last}, and step {expected} has no gradient");
            return Err(file.error(None, reason));
        }
        let steps = steps.into_values().map(|step| step.into_iter().collect()).collect();
        Ok(Recording { file, variables, steps })
    }

    /// The number of calls.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// The number of variables.
    pub fn len(&self) -> usize {
        self.variables.len()
    }

    /// Whether there is no variable; never so in a run that has been opened.
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty()
    }

    /// Name, shape and format of each variable, in the order of the run.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &[usize], Dtype)> {
        self.variables.iter().map(|variable| (name_of(variable), variable.shape(), variable.dtype()))
    }

    /// Reads the initial value of each variable, in the order of the run.
    ///
    /// # Errors
    /// A file that cannot be read, and memory that cannot be had.
    pub fn parameters(&self) -> Result<Vec<TensorBuf>, Error> {
        self.variables.iter().map(|variable| self.file.read_values(variable)).collect()
    }

    /// Reads the gradients of a call in place of those that `gradients` has. A call that the run does not have has none.
    ///
    /// # Errors
    /// A file that cannot be read, and memory that cannot be had.
    pub fn read_gradients(&self, step: usize, gradients: &mut Gradients) -> Result<(), Error> {
        gradients.buffers.resize_with(self.variables.len(), Default::default);
        gradients.buffers.iter_mut().for_each(|(present, _)| *present = false);
        for (index, tensor) in self.steps.get(step).into_iter().flatten() {
            let (present, buffer) = &mut gradients.buffers[*index];
            let fits =
                |values: &TensorBuf| values.dtype() == tensor.dtype() && values.len() == tensor.elements();
            match buffer.as_mut().filter(|values| fits(values)) {
                Some(values) => self.file.read(tensor, values.to_mut())?,
                None => {
                    // Before the new one is made.
                    *buffer = None;
                    *buffer = Some(self.file.read_values(tensor)?);
                }
            }
            *present = true;
        }
        Ok(())
    }

    /// The path of the run.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Says of an error in which call it came up.
    fn in_step(&self, step: usize, error: Error) -> Error {
        self.file.error(None, format!("step {step}: {error}"))
    }
}

impl Gradients {
    /// The gradient of the variable of that index, if it is not missing.
    pub fn get(&self, variable: usize) -> Option<TensorRef<'_>> {
        match self.buffers.get(variable) {
            Some((true, Some(values))) => Some(values.to_ref()),
            _ => None,
        }
    }
}

/// Adds the run's variables to an optimizer, in the order of the run. With `split_master` an f32 variable of the run is a
/// bf16 one with low halves.
///
/// # Errors
/// Those of [`Lion::register`].
pub fn register(recording: &Recording, optimizer: &mut Lion) -> Result<Vec<VariableId>, Error> {
    let splits = optimizer.config().split_master;
    let register = |(name, shape, dtype)| {
        let dtype = if splits && dtype == Dtype::F32 { Dtype::BF16 } else { dtype };
        optimizer.register(name, shape, dtype)
    };
    recording.variables().map(register).collect()
}

/// The initial value of each variable, in the format that it is registered in. Sets the low halves of those that have some.
///
/// # Errors
/// A file that cannot be read, and memory that cannot be had.
pub fn initial_parameters(
    recording: &Recording,
    optimizer: &mut Lion,
    variables: &[VariableId],
) -> Result<Vec<TensorBuf>, Error> {
    let initial = |(tensor, &variable): (&TensorInfo, &VariableId)| {
        let values = recording.file.read_values(tensor)?;
        let dtype = optimizer.registered(variable)?.dtype;
        if values.dtype() == dtype {
            return Ok(values);
        }
        let mut parameter = TensorBuf::zeroed(dtype, values.len())?;
        optimizer.parameter_from_f32(variable, &values.to_ref().to_f32(), parameter.to_mut())?;
        Ok(parameter)
    };
    recording.variables.iter().zip(variables).map(initial).collect()
}

/// Applies an optimizer to every call of a run: `variables` and `parameters` are in the order of the run. `after` is told
/// how many calls have been made.
///
/// # Errors
/// A file that cannot be read, what [`Lion::apply`] refuses, with the file and the step, and [`Error::Argument`] where
/// there are not as many parameters as variables.
pub fn run(
    recording: &Recording,
    optimizer: &mut Lion,
    variables: &[VariableId],
    parameters: &mut [TensorBuf],
    mut after: impl FnMut(usize),
) -> Result<(), Error> {
    check_number(variables, parameters)?;
    let mut gradients = Gradients::default();
    for step in 0..recording.steps() {
        recording.read_gradients(step, &mut gradients)?;
        let mut updates = Vec::with_capacity(variables.len());
        for (index, (&variable, parameter)) in variables.iter().zip(parameters.iter_mut()).enumerate() {
            let parameter = parameter.to_mut();
            updates.push(match gradients.get(index) {
                Some(gradient) => Update::new(variable, parameter, gradient),
                None => Update::without_gradient(variable, parameter),
            });
        }
        optimizer.apply(&mut updates).map_err(|error| recording.in_step(step, error))?;
        after(step + 1);
    }
    Ok(())
}

/// Sets each parameter to its moving average, where the optimizer keeps one: Keras's `finalize_variable_values`.
///
/// # Errors
/// Those of [`Lion::finalize_variable_values`], and [`Error::Argument`] where there are not as many parameters as
/// variables.
pub fn finalize(
    optimizer: &mut Lion,
    variables: &[VariableId],
    parameters: &mut [TensorBuf],
) -> Result<(), Error> {
    check_number(variables, parameters)?;
    let mut updates = Vec::with_capacity(variables.len());
    for (&variable, parameter) in variables.iter().zip(parameters) {
        updates.push(Update::without_gradient(variable, parameter.to_mut()));
    }
    optimizer.finalize_variable_values(&mut updates)
}

fn check_number(variables: &[VariableId], parameters: &[TensorBuf]) -> Result<(), Error> {
    match (variables.len(), parameters.len()) {
        (expected, found) if found == expected => Ok(()),
        (expected, found) => Err(Error::argument(
            "the number of parameters",
            found,
            format!("{expected}, that of the variables"),
        )),
    }
}

/// The name of the variable whose parameter a tensor is.
fn name_of(parameter: &TensorInfo) -> &str {
    parameter.name().strip_prefix(PARAMETER).unwrap_or_default()
}
