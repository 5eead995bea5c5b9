//! Recorded runs: a training's initial parameters and the gradients of each step, in one file.
//!
//! A run has tensors `param/<name>` and `grad/<step>/<name>`. The step is in decimal, from 0. A variable without a tensor
//! for a step has no gradient in it. Names may contain dots and slashes.
//!
//! The variables are sorted by the bytes of their names. The order affects results: a joint norm is summed in it.

use std::collections::BTreeMap;
use std::path::Path;

use lion_kernels::{Dtype, Role, TensorRef};

use crate::tensor_file::{TensorFile, TensorInfo};
use crate::{Error, Lion, TensorBuf, Update, VariableId};

/// A recorded run, open for reading. Its names, shapes and dtypes have been checked; its elements are read step by step.
#[derive(Debug)]
pub struct Recording {
    file: TensorFile,
    variables: Vec<TensorInfo>,
    /// For each step its gradients, each with the index of its variable.
    steps: Vec<Vec<(usize, TensorInfo)>>,
}

/// The gradients of one step, in memory that is reused for the next.
#[derive(Debug, Default)]
pub struct Gradients {
    /// For each variable whether it has a gradient, and the memory for it.
    buffers: Vec<(bool, Option<TensorBuf>)>,
}

const PARAMETER: &str = "param/";
const GRADIENT: &str = "grad/";

impl Recording {
    /// Opens a run and checks its header.
    ///
    /// # Errors
    /// Those of [`TensorFile::open`]; [`Error::File`] for a tensor of another name, a gradient without a parameter or with
    /// another shape, and a step without any gradient.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let file = TensorFile::open(path)?;
        // The file's tensors are sorted by name, so the variables are too.
        let is_parameter = |tensor: &&TensorInfo| tensor.name().starts_with(PARAMETER);
        let variables: Vec<_> = file.tensors().iter().filter(is_parameter).cloned().collect();
        if variables.is_empty() {
            return Err(file.error(None, "is not a recorded run: it has no tensor param/<name>"));
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
                return Err(wrong("duplicate gradient of this step".into()));
            }
        }
        // Every step must have a gradient, so that a hostile step number cannot make the run long.
        if let Some((expected, _)) = (0..).zip(steps.keys()).find(|(expected, step)| expected != *step) {
            let last = steps.keys().next_back().copied().unwrap_or_default();
            let reason = format!("the run goes to step {last}, and step {expected} has no gradient");
            return Err(file.error(None, reason));
        }
        let steps = steps.into_values().map(|step| step.into_iter().collect()).collect();
        Ok(Recording { file, variables, steps })
    }

    /// Returns the number of steps.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Returns the number of variables.
    pub fn len(&self) -> usize {
        self.variables.len()
    }

    /// Returns whether the run has no variables, which `open` refuses.
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty()
    }

    /// Returns name, shape and dtype of each variable, in the order of the run.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &[usize], Dtype)> {
        self.variables.iter().map(|variable| (name_of(variable), variable.shape(), variable.dtype()))
    }

    /// Reads the initial value of each variable, in the order of the run.
    ///
    /// # Errors
    /// A file that cannot be read, and out of memory.
    pub fn parameters(&self) -> Result<Vec<TensorBuf>, Error> {
        self.variables.iter().map(|variable| self.file.read_values(variable)).collect()
    }

    /// Reads the gradients of a step into `gradients`, and replaces the old ones. A step after the last has none.
    ///
    /// # Errors
    /// A file that cannot be read, and out of memory.
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
                    // Freed before the new buffer is allocated.
                    *buffer = None;
                    *buffer = Some(self.file.read_values(tensor)?);
                }
            }
            *present = true;
        }
        Ok(())
    }

    /// Returns the path of the run.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Adds file and step to an error.
    fn in_step(&self, step: usize, error: Error) -> Error {
        self.file.error(None, format!("step {step}: {error}"))
    }
}

impl Gradients {
    /// Returns the gradient of the variable of that index, if it has one.
    pub fn get(&self, variable: usize) -> Option<TensorRef<'_>> {
        match self.buffers.get(variable) {
            Some((true, Some(values))) => Some(values.to_ref()),
            _ => None,
        }
    }
}

/// Adds the run's variables to an optimizer, in the order of the run. With `split_master` an f32 variable of the run
/// becomes bf16 with low halves.
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

/// Returns the initial value of each variable, in its registered dtype. Sets the low halves in the optimizer.
///
/// # Errors
/// A file that cannot be read, and out of memory.
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

/// Applies an optimizer to every step of a run. `variables` and `parameters` are in the order of the run. `after` gets the
/// number of steps done so far.
///
/// # Errors
/// A file that cannot be read; the errors of [`Lion::apply`], with file and step; [`Error::Argument`] if the numbers of
/// parameters and variables differ.
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

/// Overwrites each parameter with its moving average, if the optimizer keeps one: Keras's `finalize_variable_values`.
///
/// # Errors
/// Those of [`Lion::finalize_variable_values`], and [`Error::Argument`] if the numbers of parameters and variables differ.
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
            format!("{expected}, the number of variables"),
        )),
    }
}

/// Returns the variable's name from the name of its parameter's tensor.
fn name_of(parameter: &TensorInfo) -> &str {
    parameter.name().strip_prefix(PARAMETER).unwrap_or_default()
}
