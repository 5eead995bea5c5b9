//! Checkpoints: an optimizer's whole state between two steps, as data and as a file.
//!
//! A checkpoint is one safetensors file. Its tensors are `param/<name>`, `momentum/<name>`, and if the options need them
//! `ema/<name>` and `accumulator/<name>`. Its metadata has `iterations` and, with a dynamic loss scale, `dynamic_scale`
//! and `step_counter`, all as decimal text; and `config` (Keras's JSON) and `format_version`. Writing is atomic, by
//! [`tensor_file::write`]: after a crash the old file or the new one is there, complete.
//!
//! Version 2 of the format adds:
//! - `low/<name>` in I16: the low halves of a bf16 parameter;
//! - a momentum in I8 with `momentum_scale/<name>` in F32: one scale per 64 elements;
//! - `seed` in the metadata: the seed of stochastic rounding;
//! - `shards` in the metadata: a JSON object with an entry `"name": [shape, start, end]` for each variable of which the
//!   file holds only a range of elements, in row-major order. The tensors of such a variable are flat.
//!
//! A file that needs none of these is of version 1.

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

/// The latest version of the format. This library reads every version up to it, and writes the lowest that suffices.
pub const FORMAT_VERSION: u32 = 2;

/// An optimizer's state between two steps. Its tensors are borrowed from the optimizer, or owned if it was read from a
/// file.
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
    /// The variables, sorted by the bytes of their names if they were read from a file.
    pub variables: Vec<SavedVariable<'a>>,
    /// The number of steps so far.
    pub iterations: u64,
    /// The state of a dynamic loss scale.
    pub dynamic: Option<LossScaleState>,
    /// The options, as Keras's JSON.
    pub config_json: Option<String>,
    /// The seed of stochastic rounding. [`Lion::restore`](crate::Lion::restore) refuses a seed other than the optimizer's.
    pub seed: Option<u64>,
}

/// The state of a dynamic loss scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaleState {
    /// The factor of the loss. It can be zero or infinite.
    pub scale: f32,
    /// The number of finite steps since the scale last changed.
    pub step_counter: u64,
}

/// A variable in a checkpoint. Its tensors have its shape; the tensors of a shard are flat and have the shard's elements.
#[derive(Debug)]
pub struct SavedVariable<'a> {
    /// The variable's name, which may hold dots and slashes.
    pub name: String,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// The range of elements that the tensors hold, in row-major order; `None` means all.
    pub shard: Option<Range<usize>>,
    /// The parameter, if the checkpoint holds it.
    pub parameter: Option<Tensor<'a>>,
    /// The momentum; `None` for a variable that is overwritten with its gradient.
    pub momentum: Option<Tensor<'a>>,
    /// The low halves of a bf16 parameter, in i16.
    pub low: Option<Tensor<'a>>,
    /// The moving average of the parameter, in f32.
    pub ema: Option<Tensor<'a>>,
    /// The sum of the gradients since the last update, in f32.
    pub accumulator: Option<Tensor<'a>>,
}

/// The elements of a tensor, borrowed or owned.
#[derive(Debug)]
pub enum Tensor<'a> {
    /// Borrowed elements.
    Borrowed(TensorRef<'a>),
    /// Owned elements.
    Owned(TensorBuf),
}

impl Tensor<'_> {
    /// Returns the elements.
    pub fn to_ref(&self) -> TensorRef<'_> {
        match self {
            Tensor::Borrowed(tensor) => *tensor,
            Tensor::Owned(values) => values.to_ref(),
        }
    }

    /// Returns the dtype of the elements.
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
    /// Creates a variable without tensors.
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
    /// Writes the file atomically: after a crash or an error the old file or the new one is there, complete.
    ///
    /// # Errors
    /// Those of [`tensor_file::write`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.write_with(path, &[])
    }

    /// Writes the file with additional metadata, under keys that a checkpoint does not use.
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
        // Written as f64, so that reading it as f64 or as f32 gives the same number.
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

    /// Reads and checks a whole file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read. [`Error::File`] if it is not a safetensors file, or if a tensor's name, dtype or
    /// shape, or the metadata, is not valid in a checkpoint.
    pub fn read(path: impl AsRef<Path>) -> Result<Checkpoint<'static>, Error> {
        Self::read_part(path, |_, held| held)
    }

    /// Checks a file and reads a part of it. `wanted` gets the name of a variable and the elements that the file has, and
    /// returns the elements to read. A variable with an empty range is left out.
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
            .ok_or_else(|| wrong("is not a checkpoint: its metadata has no iterations".into()))?;
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

    /// Parses the options, if the checkpoint has them.
    ///
    /// # Errors
    /// Those of [`Config::from_json`].
    pub fn config(&self) -> Result<Option<Config>, Error> {
        self.config_json.as_deref().map(Config::from_json).transpose()
    }
}

/// Parses the number that the metadata has under `key`.
fn number<T: std::str::FromStr>(file: &TensorFile, key: &str, allowed: &str) -> Result<Option<T>, Error> {
    let Some(text) = file.metadata(key) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let text: String = text.chars().take(40).collect();
        file.error(None, format!("the metadata's {key} is {text:?}, and must be {allowed}"))
    })
}

/// The tensors of a variable in a file.
type FileTensors<'f> = Vec<(Part, &'f TensorInfo)>;

/// Checks all tensors, and then reads them.
fn read_variables(
    file: &TensorFile,
    mut shards: Shards,
    wanted: impl Fn(&str, Range<usize>) -> Range<usize>,
) -> Result<Vec<SavedVariable<'static>>, Error> {
    let mut found = std::collections::BTreeMap::<&str, FileTensors<'_>>::new();
    for tensor in file.tensors() {
        let wrong = |reason: String| file.error(Some(tensor.name()), reason);
        let Some((part, name)) = Part::of_name(tensor.name()).filter(|(_, name)| !name.is_empty()) else {
            return Err(wrong(format!("is not a tensor of a checkpoint; expected {}", Part::names())));
        };
        part.check_dtype(tensor.dtype()).map_err(wrong)?;
        found.entry(name).or_default().push((part, tensor));
    }
    if let Some(name) = shards.keys().find(|name| !found.contains_key(name.as_str())) {
        return Err(
            file.error(None, format!("the metadata's {} has {name:?}, which has no tensor", shards::KEY))
        );
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
        // If the range is outside the file's elements, the first read returns an error.
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

/// Checks that the tensors of a variable have the same shape, or the shape of its shard, and that an 8-bit momentum has its
/// scales.
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
