//! Checkpoints: all that an optimizer knows between two calls, as data and as a file.
//!
//! A checkpoint is one safetensors file. Its tensors are `param/<name>`, `momentum/<name>`, and where the options call
//! for them `ema/<name>` and `accumulator/<name>`; its metadata has, as decimal text, `iterations`, with a dynamic loss
//! scale `dynamic_scale` and `step_counter`, and further `config` (Keras's JSON) and `format_version`. It is written
//! as [`tensor_file::write`] does it: a crash leaves the old file whole, or the new one.
//!
//! Version 2 of the format adds shards: the metadata's `shards` is a JSON object with an entry for each variable of which
//! the file holds some elements only: `"name": [shape, start, end]`, in row-major order. Its tensors are flat then. A file
//! that needs no more than version 1 says that it is of version 1.

mod import;
mod optimizer;
mod shards;

use std::ops::Range;
use std::path::Path;

use lion_kernels::{Dtype, TensorRef};

use crate::tensor_file::{self, Entry, TensorFile, TensorInfo};
use crate::{Config, Error, TensorBuf};

use self::shards::{Shard, Shards};

pub use import::{MomentumNames, import_momentum};

/// The latest version of the layout: this library reads all up to it, and writes the first that holds what there is.
pub const FORMAT_VERSION: u32 = 2;

/// What an optimizer knows between two calls. Its tensors are borrowed from the optimizer that it is of, or owned where
/// it has been read from a file.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("state.safetensors");
/// use lion::state::{Checkpoint, Tensor, VariableState};
///
/// let momentum = [0.5_f32, -0.5];
/// let mut bias = VariableState::new("dense.bias", &[2]);
/// bias.momentum = Some(Tensor::from(&momentum[..]));
/// let checkpoint = Checkpoint { iterations: 7, variables: vec![bias], ..Checkpoint::default() };
/// checkpoint.write(&path)?;
///
/// let read = Checkpoint::read(&path)?;
/// assert_eq!(read.iterations, 7);
/// assert_eq!(read.variables[0].name, "dense.bias");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Checkpoint<'a> {
    /// The variables; sorted by the bytes of their names where they have been read from a file.
    pub variables: Vec<VariableState<'a>>,
    /// The number of calls so far.
    pub iterations: u64,
    /// The state of a dynamic loss scale.
    pub dynamic: Option<DynamicState>,
    /// The options, as Keras's JSON.
    pub config_json: Option<String>,
}

/// The state of a dynamic loss scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicState {
    /// What losses are multiplied by. It may have come to zero or to infinity.
    pub scale: f32,
    /// The number of finite calls since the scale last changed.
    pub step_counter: u64,
}

/// A variable in a checkpoint. All its tensors have its shape, or those of a shard the shard's elements.
#[derive(Debug)]
pub struct VariableState<'a> {
    /// The variable's name, which may hold dots and slashes.
    pub name: String,
    /// Its extents; none for a scalar.
    pub shape: Vec<usize>,
    /// The elements, in row-major order, that the tensors are of; all where `None`.
    pub shard: Option<Range<usize>>,
    /// The parameter, where the checkpoint holds it.
    pub parameter: Option<Tensor<'a>>,
    /// The momentum, which a variable that is overwritten by its gradient does not have.
    pub momentum: Option<Tensor<'a>>,
    /// The moving average of the parameter, in f32.
    pub ema: Option<Tensor<'a>>,
    /// The sum of the gradients that wait for an update, in f32.
    pub accumulator: Option<Tensor<'a>>,
}

/// The elements of a tensor, borrowed or owned.
#[derive(Debug)]
pub enum Tensor<'a> {
    /// They live elsewhere.
    Borrowed(TensorRef<'a>),
    /// They live here.
    Owned(TensorBuf),
}

impl Tensor<'_> {
    /// The elements.
    pub fn to_ref(&self) -> TensorRef<'_> {
        match self {
            Tensor::Borrowed(tensor) => *tensor,
            Tensor::Owned(values) => values.to_ref(),
        }
    }

    /// The format of the elements.
    pub fn dtype(&self) -> Dtype {
        self.to_ref().dtype()
    }
}

impl<'a, T: Into<TensorRef<'a>>> From<T> for Tensor<'a> {
    fn from(slice: T) -> Self {
        Tensor::Borrowed(slice.into())
    }
}

impl VariableState<'_> {
    /// A variable without tensors.
    pub fn new(name: &str, shape: &[usize]) -> Self {
        VariableState {
            name: name.into(),
            shape: shape.into(),
            shard: None,
            parameter: None,
            momentum: None,
            ema: None,
            accumulator: None,
        }
    }
}

/// The names that a checkpoint's tensors begin with.
const SECTIONS: [Section; 4] = [Section::Parameter, Section::Momentum, Section::Ema, Section::Accumulator];

#[derive(Clone, Copy)]
enum Section {
    Parameter,
    Momentum,
    Ema,
    Accumulator,
}

impl Section {
    fn prefix(self) -> &'static str {
        match self {
            Section::Parameter => "param/",
            Section::Momentum => "momentum/",
            Section::Ema => "ema/",
            Section::Accumulator => "accumulator/",
        }
    }

    fn of<'v, 'a>(self, variable: &'v VariableState<'a>) -> &'v Option<Tensor<'a>> {
        match self {
            Section::Parameter => &variable.parameter,
            Section::Momentum => &variable.momentum,
            Section::Ema => &variable.ema,
            Section::Accumulator => &variable.accumulator,
        }
    }

    fn of_mut<'v, 'a>(self, variable: &'v mut VariableState<'a>) -> &'v mut Option<Tensor<'a>> {
        match self {
            Section::Parameter => &mut variable.parameter,
            Section::Momentum => &mut variable.momentum,
            Section::Ema => &mut variable.ema,
            Section::Accumulator => &mut variable.accumulator,
        }
    }

    /// Whether the tensors are f32 whatever the parameter is.
    fn is_single(self) -> bool {
        matches!(self, Section::Ema | Section::Accumulator)
    }
}

impl Checkpoint<'_> {
    /// Writes the file, atomically: after a crash or an error there is the old file whole, or the new one.
    ///
    /// # Errors
    /// Those of [`tensor_file::write`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let named: Vec<_> = SECTIONS
            .iter()
            .flat_map(|section| self.variables.iter().map(move |variable| (section, variable)))
            .filter_map(|(section, variable)| {
                let tensor = section.of(variable).as_ref()?;
                let shape = match &variable.shard {
                    None => variable.shape.clone(),
                    Some(range) => vec![range.len()],
                };
                Some((format!("{}{}", section.prefix(), variable.name), shape, tensor.to_ref()))
            })
            .collect();
        let entries: Vec<_> =
            named.iter().map(|(name, shape, values)| Entry { name, shape, values: *values }).collect();
        let shards = shards::to_json(&self.variables);
        let version = if shards.is_some() { "2" } else { "1" };
        let iterations = self.iterations.to_string();
        let mut metadata = vec![("format_version", version), ("iterations", &iterations)];
        // As f64, so that whoever reads it as one has the same number; as f32 it is the same too.
        let dynamic = self
            .dynamic
            .map(|state| (format!("{:?}", f64::from(state.scale)), state.step_counter.to_string()));
        if let Some((scale, counter)) = &dynamic {
            metadata.extend([("dynamic_scale", scale.as_str()), ("step_counter", counter)]);
        }
        metadata.extend(self.config_json.as_deref().map(|config| ("config", config)));
        metadata.extend(shards.as_deref().map(|shards| (shards::KEY, shards)));
        tensor_file::write(path, &entries, &metadata)
    }

    /// Reads a file, all of it, and checks it.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read; [`Error::File`] where it is no safetensors file, has a tensor of another
    /// name, format or shape than a checkpoint's, or metadata that is not a checkpoint's.
    pub fn read(path: impl AsRef<Path>) -> Result<Checkpoint<'static>, Error> {
        let file = TensorFile::open(path)?;
        let wrong = |reason: String| file.error(None, reason);
        if let Some(version) = number::<u64>(&file, "format_version", "a whole number")?
            && !(1..=u64::from(FORMAT_VERSION)).contains(&version)
        {
            let reason = format!(
                "its format_version is {version}, and this program knows those up to {FORMAT_VERSION}"
            );
            return Err(wrong(reason));
        }
        let whole = "a whole number that is not negative";
        let iterations = number(&file, "iterations", whole)?
            .ok_or_else(|| wrong("is no checkpoint: its metadata has no iterations".into()))?;
        let scale = number::<f32>(&file, "dynamic_scale", "a number that is not negative")?;
        let dynamic = match (scale, number(&file, "step_counter", whole)?) {
            (Some(scale), _) if scale.is_nan() || scale < 0.0 => {
                return Err(wrong(format!(
                    "the metadata's dynamic_scale is {scale}, and must not be negative"
                )));
            }
            (Some(scale), Some(step_counter)) => Some(DynamicState { scale, step_counter }),
            (None, None) => None,
            _ => return Err(wrong("the metadata has only one of dynamic_scale and step_counter".into())),
        };
        let config_json = file.metadata("config").map(str::to_owned);
        let mut checkpoint = Checkpoint { variables: Vec::new(), iterations, dynamic, config_json };
        checkpoint.config().map_err(|error| wrong(format!("the metadata's config: {error}")))?;
        checkpoint.variables = read_variables(&file, shards::read(&file)?)?;
        Ok(checkpoint)
    }

    /// The options, if the checkpoint has them.
    ///
    /// # Errors
    /// Those of [`Config::from_json`].
    pub fn config(&self) -> Result<Option<Config>, Error> {
        self.config_json.as_deref().map(Config::from_json).transpose()
    }
}

/// What the metadata has under `key`.
fn number<T: std::str::FromStr>(file: &TensorFile, key: &str, allowed: &str) -> Result<Option<T>, Error> {
    let Some(text) = file.metadata(key) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let text: String = text.chars().take(40).collect();
        file.error(None, format!("the metadata's {key} is {text:?}, and must be {allowed}"))
    })
}

/// Checks all before it reads any.
fn read_variables(file: &TensorFile, mut shards: Shards) -> Result<Vec<VariableState<'static>>, Error> {
    let mut found = std::collections::BTreeMap::<&str, Vec<(Section, &TensorInfo)>>::new();
    for tensor in file.tensors() {
        let wrong = |reason: String| file.error(Some(tensor.name()), reason);
        let section = SECTIONS
            .iter()
            .find_map(|section| Some((*section, tensor.name().strip_prefix(section.prefix())?)));
        let Some((section, name)) = section.filter(|(_, name)| !name.is_empty()) else {
            let reason = "is no tensor of a checkpoint: these are param/<name>, momentum/<name>, ema/<name> and \
                          accumulator/<name>";
            return Err(wrong(reason.into()));
        };
        if section.is_single() && tensor.dtype() != Dtype::F32 {
            return Err(wrong(format!("is {}, and must be f32", tensor.dtype())));
        }
        if let Some(shard) = shards.get(name)
            && *tensor.shape() != [shard.range.len()]
        {
            let (shape, len) = (tensor.shape(), shard.range.len());
            return Err(wrong(format!("has the shape {shape:?}, and its shard in the metadata has [{len}]")));
        }
        let tensors = found.entry(name).or_default();
        if let Some((_, other)) = tensors.first()
            && other.shape() != tensor.shape()
        {
            let (shape, other_shape) = (tensor.shape(), other.shape());
            return Err(wrong(format!("has the shape {shape:?}, and {} has {other_shape:?}", other.name())));
        }
        tensors.push((section, tensor));
    }
    if let Some(name) = shards.keys().find(|name| !found.contains_key(name.as_str())) {
        return Err(file.error(
            None,
            format!("the metadata's {} has {name:?}, of which no tensor is there", shards::KEY),
        ));
    }
    let read = |(name, tensors): (&str, Vec<(Section, &TensorInfo)>)| {
        let shape = tensors.first().map(|(_, tensor)| tensor.shape()).unwrap_or_default();
        let mut variable = VariableState::new(name, shape);
        if let Some(Shard { shape, range }) = shards.remove(name) {
            (variable.shape, variable.shard) = (shape, Some(range));
        }
        for (section, tensor) in tensors {
            *section.of_mut(&mut variable) = Some(Tensor::Owned(file.read_values(tensor)?));
        }
        Ok(variable)
    };
    found.into_iter().map(read).collect()
}
