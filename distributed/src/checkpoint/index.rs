//! The index of a sharded checkpoint, as JSON. It is checked before it is used.

use std::collections::HashSet;
use std::fmt::Display;
use std::io::Read;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use lion::Dtype;
use lion_autotune::{regular, replace};
use serde::{Deserialize, Serialize};

use super::files;
use crate::{Error, Segment};

/// The format version that this library writes, and the latest that it reads.
const FORMAT_VERSION: u64 = 1;
/// The limit of an index's size: more than the index of a million parts needs.
const LARGEST: u64 = 1 << 28;

/// An index: which file has which elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Index {
    format_version: u64,
    /// The save that the files belong to: 16 hexadecimal digits.
    pub run: String,
    /// The number of calls before it.
    pub iterations: u64,
    /// The variables.
    pub variables: Vec<IndexedVariable>,
    /// The files. Together they have each element exactly once.
    pub files: Vec<IndexedFile>,
}

/// A variable of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IndexedVariable {
    /// Its name, which no other has.
    pub name: String,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// The parameter's format.
    pub dtype: String,
}

/// A file of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IndexedFile {
    /// Its name, in the folder of the index.
    pub file: String,
    /// Its parts: the number of a variable in the index, the first element and the end.
    pub parts: Vec<(usize, usize, usize)>,
}

impl IndexedVariable {
    pub(crate) fn new(name: &str, shape: &[usize], dtype: Dtype) -> Self {
        IndexedVariable { name: name.into(), shape: shape.into(), dtype: dtype.name().into() }
    }

    /// The number of elements; `None` if no memory can hold as many.
    pub(crate) fn elements(&self) -> Option<usize> {
        match self.shape.contains(&0) {
            true => Some(0),
            false => self.shape.iter().try_fold(1_usize, |all, &side| all.checked_mul(side)),
        }
    }
}

impl IndexedFile {
    pub(crate) fn new(file: String, shard: &[Segment]) -> Self {
        let part = |Segment { variable, range }: &Segment| (*variable, range.start, range.end);
        IndexedFile { file, parts: shard.iter().map(part).collect() }
    }
}

impl Index {
    pub(crate) fn new(
        run: String,
        iterations: u64,
        variables: Vec<IndexedVariable>,
        files: Vec<IndexedFile>,
    ) -> Self {
        Index { format_version: FORMAT_VERSION, run, iterations, variables, files }
    }

    /// Reads an index, and checks that its parts have each element of each variable once.
    ///
    /// # Errors
    /// A file that cannot be read, or is not a valid index.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let io = |action| move |reason| lion::Error::Io { file: path.into(), tensor: None, action, reason };
        let mut text = Vec::new();
        let file = regular::open(path).map_err(io("cannot open"))?;
        file.take(LARGEST + 1).read_to_end(&mut text).map_err(io("cannot read"))?;
        if text.len() as u64 > LARGEST {
            return Err(not_an_index(path, format!("has more than {LARGEST} bytes")));
        }
        let text = String::from_utf8(text).map_err(|error| not_an_index(path, error))?;
        Self::from_json(path, &text)
    }

    /// Parses an index that was found at `path`.
    ///
    /// # Errors
    /// A text that is not an index. The message is one line.
    pub fn from_json(path: &Path, text: &str) -> Result<Self, Error> {
        let index: Index = serde_json::from_str(text).map_err(|error| not_an_index(path, error))?;
        index.check().map_err(|reason| not_an_index(path, reason))?;
        Ok(index)
    }

    /// The text of the index.
    pub fn to_json(&self) -> String {
        // Serialization cannot fail: all keys are text, and all numbers finite.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Replaces the file at `path`, as [`lion_autotune::replace`] does.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let written =
            replace::replace(path, |file| std::io::Write::write_all(file, self.to_json().as_bytes()));
        let io = |reason| lion::Error::Io { file: path.into(), tensor: None, action: "cannot write", reason };
        Ok(written.map_err(io)?)
    }

    /// The parts of each file: its path in the folder of the index, and for each part the variable and its elements.
    pub(crate) fn parts<'a>(
        &'a self,
        index: &Path,
    ) -> impl Iterator<Item = (PathBuf, Vec<(&'a IndexedVariable, Range<usize>)>)> {
        let folder = files::folder(index);
        self.files.iter().map(move |file| {
            let part = |&(variable, start, end): &(usize, usize, usize)| {
                Some((self.variables.get(variable)?, start..end))
            };
            (folder.join(&file.file), file.parts.iter().filter_map(part).collect())
        })
    }

    fn check(&self) -> Result<(), String> {
        if self.format_version != FORMAT_VERSION {
            let found = self.format_version;
            return Err(format!("its format_version is {found}; this program knows {FORMAT_VERSION}"));
        }
        if !files::is_id(&self.run) {
            return Err("its run is not 16 hexadecimal digits".into());
        }
        let mut names = HashSet::new();
        let mut parts: Vec<Vec<Range<usize>>> = Vec::new();
        for (number, variable) in self.variables.iter().enumerate() {
            if variable.name.is_empty() || !names.insert(&variable.name) {
                return Err(format!(
                    "variable {number} has the name {:?}, which is empty or taken",
                    variable.name
                ));
            }
            if Dtype::from_str(&variable.dtype).is_err() {
                return Err(format!("variable {:?} has the dtype {:?}", variable.name, variable.dtype));
            }
            if variable.elements().is_none() {
                return Err(format!("variable {:?} has more elements than memory can hold", variable.name));
            }
            parts.push(Vec::new());
        }
        let mut files = HashSet::new();
        for IndexedFile { file, parts: of_file } in &self.files {
            let mut components = Path::new(file).components();
            let plain = matches!((components.next(), components.next()), (Some(Component::Normal(name)), None) if name == file.as_str());
            if !plain || !files.insert(file) {
                return Err(format!("the file {file:?} is not the name of a file, or is there twice"));
            }
            for &(variable, start, end) in of_file {
                match parts.get_mut(variable) {
                    Some(parts) => parts.push(start..end),
                    None => {
                        return Err(format!(
                            "the file {file:?} has a part of variable {variable}, which does not exist"
                        ));
                    }
                }
            }
        }
        for (variable, mut parts) in self.variables.iter().zip(parts) {
            parts.sort_unstable_by_key(|part| (part.start, part.end));
            let (name, mut end) = (&variable.name, 0);
            for part in parts {
                let Range { start, end: next } = part;
                if start >= next {
                    return Err(format!("variable {name:?} has the part {start}..{next}, which is empty"));
                }
                if start != end {
                    let what = if start < end { "overlaps the one before" } else { "comes after a gap" };
                    return Err(format!(
                        "variable {name:?} has the part {start}..{next}, which {what}: that ends at {end}"
                    ));
                }
                end = next;
            }
            let len = variable.elements().unwrap_or_default();
            if end != len {
                return Err(format!("variable {name:?} has {len} elements, and its parts end at {end}"));
            }
        }
        Ok(())
    }
}

fn not_an_index(path: &Path, reason: impl Display) -> Error {
    let reason = format!("is not the index of a sharded checkpoint: {reason}");
    lion::Error::File { file: path.into(), tensor: None, reason }.into()
}
