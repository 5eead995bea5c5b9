//! The metadata of shards: the elements that a checkpoint holds of a variable, if not all.

use std::collections::BTreeMap;
use std::ops::Range;

use super::SavedVariable;
use crate::Error;
use crate::tensor_file::TensorFile;
use crate::variable::elements;

/// The key in the metadata.
pub(super) const KEY: &str = "shards";

/// The shards by variable name.
pub(super) type Shards = BTreeMap<String, Shard>;

/// A part of a variable.
pub(super) struct Shard {
    /// The whole variable's shape.
    pub(super) shape: Vec<usize>,
    /// The elements of the part.
    pub(super) range: Range<usize>,
}

/// A shard in JSON: the variable's shape, the first element and the end.
type Entry = (Vec<usize>, usize, usize);

/// Returns the value of [`KEY`], or `None` if all variables are whole.
pub(super) fn to_json(variables: &[SavedVariable<'_>]) -> Option<String> {
    let entry = |variable: &SavedVariable<'_>| -> Option<(String, Entry)> {
        let Range { start, end } = variable.shard.clone()?;
        Some((variable.name.clone(), (variable.shape.clone(), start, end)))
    };
    let entries: BTreeMap<_, _> = variables.iter().filter_map(entry).collect();
    if entries.is_empty() { None } else { Some(serde_json::json!(entries).to_string()) }
}

/// Reads the metadata of a file. A file without the key has no shards.
pub(super) fn read(file: &TensorFile) -> Result<Shards, Error> {
    let Some(text) = file.metadata(KEY) else { return Ok(Shards::new()) };
    let wrong = |reason: String| file.error(None, format!("the metadata's {KEY}: {reason}"));
    let entries: BTreeMap<String, Entry> =
        serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let shard = |(name, (shape, start, end)): (String, Entry)| match elements(&shape) {
        Some(len) if start <= end && end <= len => Ok((name, Shard { shape, range: start..end })),
        Some(len) => {
            Err(wrong(format!("{name:?} has the range {start}..{end}; expected one within 0..{len}")))
        }
        None => {
            Err(wrong(format!("{name:?} has the shape {shape:?}, with more elements than memory can hold")))
        }
    };
    entries.into_iter().map(shard).collect()
}
