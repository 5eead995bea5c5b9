//! Checkpoints: all that an optimizer knows between two calls, as data and as a file.
//!
//! A checkpoint is one safetensors file. Its tensors are `param/<name>`, `momentum/<name>`, and where the options call
//! for them `ema/<name>` and `accumulator/<name>`; its metadata has, as decimal text, `iterations`, with a dynamic loss
//! scale `dynamic_scale` and `step_counter`, and further `config` (Keras's JSON) and `format_version`. It is written
//! as [`tensor_file::write`] does it: a crash leaves the old file whole, or the new one.
//!
//! Version 2 of the format adds what formats that move fewer bytes need: `low/<name>` in I16, the low halves of a bf16
//! parameter; a momentum in I8 with its scales, `momentum_scale/<name>` in F32, one for each 64 elements; and in the
//! metadata `seed`, that of stochastic rounding. And it adds shards: the metadata's `shards` is a JSON object with an entry for each variable of which
//! the file holds some elements only: `"name": [shape, start, end]`, in row-major order. Its tensors are flat then. A file
//! that needs no more than version 1 says that it is of version 1.

mod import;
mod momentum;
mod restore;
mod restore_part;
mod role;
mod shards;

use std::ops::Range;
use std::path::Path;

use lion_kernels::{Dtype, TensorRef};

use crate::tensor_file::{self, Entry, TensorFile, TensorInfo};
use crate::variable::elements;
use crate::{Config, Error, TensorBuf};

use self::role::{Part, SAVED_ROLES, SavedRole};
use self::shards::{Shard, Shards};

pub use import::{MomentumMapping, import_momentum};

/// The latest version of the layout: this library reads all up to it, and writes the first that holds what there is.
pub const FORMAT_VERSION: u32 = 2;

/// What an optimizer knows between two calls. Its tensors are borrowed from the optimizer that it is of, or owned where
/// it has been read from a file.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("state.safetensors");
/// use lion::checkpoint::{Checkpoint, Tensor, SavedVariable};
///
/// let momentum = [0.5_f32, -0.5];
/// let mut bias = SavedVariable::new("dense.bias", &[2]);
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
    pub variables: Vec<SavedVariable<'a>>,
    /// The number of calls so far.
    pub iterations: u64,
    /// The state of a dynamic loss scale.
    pub dynamic: Option<LossScaleState>,
    /// The options, as Keras's JSON.
    pub config_json: Option<String>,
    /// The seed of stochastic rounding. A run goes on with its own: [`Lion::restore`](crate::Lion::restore) refuses
    /// another.
    pub seed: Option<u64>,
}

/// The state of a dynamic loss scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaleState {
    /// What losses are multiplied by. It may have come to zero or to infinity.
    pub scale: f32,
    /// The number of finite calls since the scale last changed.
    pub step_counter: u64,
}

/// A variable in a checkpoint. All its tensors have its shape, or those of a shard the shard's elements.
#[derive(Debug)]
pub struct SavedVariable<'a> {
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
    /// The low halves of a bf16 parameter, in i16.
    pub low: Option<Tensor<'a>>,
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

impl SavedVariable<'_> {
    /// A variable without tensors.
    pub fn new(name: &str, shape: &[usize]) -> Self {
        SavedVariable {
            name: name.into(),
            shape: shape.into(),
            shard: None,
            parameter: None,
            momentum: None,
            low: None,
            ema: None,
            accumulator: None,
        }
    }
}

impl Checkpoint<'_> {
    /// Writes the file, atomically: after a crash or an error there is the old file whole, or the new one.
    ///
    /// # Errors
    /// Those of [`tensor_file::write`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.write_with(path, &[])
    }

    /// Writes the file with more metadata, under keys that a checkpoint does not have.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_with(&self, path: impl AsRef<Path>, more: &[(&str, &str)]) -> Result<(), Error> {
        let named: Vec<_> = SAVED_ROLES
            .iter()
            .flat_map(|section| self.variables.iter().map(move |variable| (section, variable)))
            .filter_map(|(section, variable)| {
                let tensor = section.of(variable).as_ref()?.to_ref();
                let shape = match &variable.shard {
                    None => variable.shape.clone(),
                    Some(range) => vec![range.len()],
                };
                Some(section.entries(&variable.name, shape, tensor))
            })
            .flatten()
            .collect();
        let entries: Vec<_> =
            named.iter().map(|(name, shape, values)| Entry { name, shape, values: *values }).collect();
        let shards = shards::to_json(&self.variables);
        let needs_2 = |(name, ..): &(String, Vec<usize>, TensorRef<'_>)| SavedRole::is_of_version_2(name);
        let is_1 = shards.is_none() && self.seed.is_none() && !named.iter().any(needs_2);
        let version = if is_1 { "1" } else { "2" };
        let (iterations, seed) = (self.iterations.to_string(), self.seed.map(|seed| seed.to_string()));
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
        metadata.extend(seed.as_deref().map(|seed| ("seed", seed)));
        metadata.extend(more);
        tensor_file::write(path, &entries, &metadata)
    }

    /// Reads a file, all of it, and checks it.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read; [`Error::File`] where it is no safetensors file, has a tensor of another
    /// name, format or shape than a checkpoint's, or metadata that is not a checkpoint's.
    pub fn read(path: impl AsRef<Path>) -> Result<Checkpoint<'static>, Error> {
        Self::read_part(path, |_, held| held)
    }

    /// Reads some elements of a file, and checks it. `wanted` is asked, for the name of a variable and the elements that the
    /// file has of it, which of them to read. A variable of which none are wanted is left out.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`Error::File`] for elements that the file does not have.
    pub fn read_part(
        path: impl AsRef<Path>,
        wanted: impl Fn(&str, Range<usize>) -> Range<usize>,
    ) -> Result<Checkpoint<'static>, Error> {
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
            (Some(scale), Some(step_counter)) => Some(LossScaleState { scale, step_counter }),
            (None, None) => None,
            _ => return Err(wrong("the metadata has only one of dynamic_scale and step_counter".into())),
        };
        let config_json = file.metadata("config").map(str::to_owned);
        let seed = number(&file, "seed", whole)?;
        let mut checkpoint = Checkpoint { variables: Vec::new(), iterations, dynamic, config_json, seed };
        checkpoint.config().map_err(|error| wrong(format!("the metadata's config: {error}")))?;
        checkpoint.variables = read_variables(&file, shards::read(&file)?, wanted)?;
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

/// The tensors of a variable in a file.
type FileTensors<'f> = Vec<(Part, &'f TensorInfo)>;

/// Checks all before it reads any.
fn read_variables(
    file: &TensorFile,
    mut shards: Shards,
    wanted: impl Fn(&str, Range<usize>) -> Range<usize>,
) -> Result<Vec<SavedVariable<'static>>, Error> {
    let mut found = std::collections::BTreeMap::<&str, FileTensors<'_>>::new();
    for tensor in file.tensors() {
        let wrong = |reason: String| file.error(Some(tensor.name()), reason);
        let Some((part, name)) = Part::of_name(tensor.name()).filter(|(_, name)| !name.is_empty()) else {
            return Err(wrong(format!("is no tensor of a checkpoint: these are {}", Part::names())));
        };
        part.check_dtype(tensor.dtype()).map_err(wrong)?;
        found.entry(name).or_default().push((part, tensor));
    }
    if let Some(name) = shards.keys().find(|name| !found.contains_key(name.as_str())) {
        return Err(file.error(
            None,
            format!("the metadata's {} has {name:?}, of which no tensor is there", shards::KEY),
        ));
    }
    for (name, tensors) in &found {
        check_shapes(file, tensors, shards.get(*name))?;
    }
    let mut read = |(name, tensors): (&str, FileTensors<'_>)| {
        let of_elements = tensors.iter().find(|(part, _)| *part != Part::Scale);
        let mut variable = SavedVariable::new(name, of_elements.map_or(&[], |(_, tensor)| tensor.shape()));
        if let Some(Shard { shape, range }) = shards.remove(name) {
            (variable.shape, variable.shard) = (shape, Some(range));
        }
        let held = variable.shard.clone().unwrap_or(0..elements(&variable.shape).unwrap_or_default());
        let part = wanted(name, held.clone());
        if part != held {
            if part.is_empty() {
                return Ok(None);
            }
            variable.shard = Some(part.clone());
        }
        // A range that is not of the file's elements is the error of the first read.
        let places = part.start.wrapping_sub(held.start)..part.end.wrapping_sub(held.start);
        let scale = tensors.iter().find(|(part, _)| *part == Part::Scale).map(|(_, scale)| *scale);
        for (part, tensor) in tensors {
            let Part::SavedRole(section) = part else { continue };
            *section.of_mut(&mut variable) = Some(Tensor::Owned(match scale {
                Some(scale) if section == SavedRole::Momentum => {
                    momentum::read(file, tensor, scale, places.clone())?
                }
                _ => file.read_values_of(tensor, places.clone())?,
            }));
        }
        Ok(Some(variable))
    };
    found.into_iter().filter_map(|found| read(found).transpose()).collect()
}

/// Whether the tensors of a variable have one shape, that of its shard if it is one; and whether codes of momentum have
/// their scales.
fn check_shapes(file: &TensorFile, tensors: &FileTensors<'_>, shard: Option<&Shard>) -> Result<(), Error> {
    let mut first: Option<&TensorInfo> = None;
    let of = |wanted| tensors.iter().find(|(part, _)| *part == wanted).map(|(_, tensor)| *tensor);
    for (_, tensor) in tensors.iter().filter(|(part, _)| *part != Part::Scale) {
        let wrong = |reason: String| file.error(Some(tensor.name()), reason);
        if let Some(shard) = shard
            && *tensor.shape() != [shard.range.len()]
        {
            let (shape, len) = (tensor.shape(), shard.range.len());
            return Err(wrong(format!("has the shape {shape:?}, and its shard in the metadata has [{len}]")));
        }
        if let Some(other) = first
            && other.shape() != tensor.shape()
        {
            let (shape, other_shape) = (tensor.shape(), other.shape());
            return Err(wrong(format!("has the shape {shape:?}, and {} has {other_shape:?}", other.name())));
        }
        first = first.or(Some(tensor));
    }
    momentum::check(file, of(Part::SavedRole(SavedRole::Momentum)), of(Part::Scale))
}
