//! Merges a sharded checkpoint into one file, and splits one file into a sharded checkpoint.
//!
//! Both copy tensors between files, without an optimizer. A range of elements is a range of bytes, copied a piece at a
//! time. So memory is that of a piece, for a checkpoint of any size.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use lion::tensor_file::{Planned, TensorFile, TensorInfo, write_streamed};
use lion::{TensorBuf, TensorRef};

use super::{Index, IndexedFile, IndexedVariable, RUN_KEY, Run, sweep};
use crate::{Error, Layout};

/// Elements that are copied at a time.
const PIECE: usize = 1 << 18;
/// Files that are open at a time.
const MOST_OPEN: usize = 128;

/// The keys of a file's metadata that describe its part of a checkpoint.
const SHARDS_KEY: &str = "shards";
const VERSION_KEY: &str = "format_version";

/// The prefix of the names of parameters.
const PARAMETER: &str = "param/";
/// The prefix of the names of the scales of an 8-bit momentum: one for each block of elements.
const SCALE: &str = "momentum_scale/";
/// The prefix of the names of the low halves of parameters.
const LOW: &str = "low/";
/// The key of the seed of stochastic rounding.
const SEED_KEY: &str = "seed";

/// The elements of a tensor that a file has.
struct Part {
    file: usize,
    /// The range of the tensor in the file.
    range: Range<usize>,
}

/// Writes a sharded checkpoint as the single file that one process would have written.
///
/// # Errors
/// An index or a file that cannot be read or is not valid; an output that cannot be written, or that is one of the files
/// that are read.
pub fn merge(index: impl AsRef<Path>, output: impl AsRef<Path>) -> Result<(), Error> {
    let (path, output) = (index.as_ref(), output.as_ref());
    let index = Index::read(path)?;
    for read in index.parts(path).map(|(file, _)| file).chain([path.into()]) {
        require_another_file(output, &read)?;
    }
    let mut plan = BTreeMap::<String, (Planned, Vec<(usize, Part)>)>::new();
    let mut metadata = None;
    let mut files = Files { paths: Vec::new(), open: BTreeMap::new() };
    for (number, (path, parts)) in index.parts(path).enumerate() {
        files.paths.push(path);
        let file = files.open(number)?;
        check_run(file, &index)?;
        let own = file.metadata_entries().filter(|(key, _)| ![SHARDS_KEY, VERSION_KEY].contains(key));
        let own: Vec<_> = own.map(owned).collect();
        if metadata.get_or_insert_with(|| own.clone()) != &own {
            return Err(wrong(file.path(), "", "has other metadata than the files before"));
        }
        // The first file has the variables without elements.
        let empty =
            index.variables.iter().filter(|it| number == 0 && it.elements() == Some(0)).map(|it| (it, 0..0));
        let parts = parts
            .into_iter()
            .chain(empty)
            .map(|(variable, range)| (variable.name.as_str(), (variable, range)));
        let parts: BTreeMap<_, _> = parts.collect();
        for tensor in file.tensors() {
            let name = tensor.name().split_once('/').map_or("", |(_, name)| name);
            let Some((variable, range)) = parts.get(name) else {
                return Err(wrong(
                    file.path(),
                    tensor.name(),
                    "is of a variable that the index does not name here",
                ));
            };
            let entries = entries(tensor.name(), range);
            if tensor.elements() != entries.len() {
                let (found, expected) = (tensor.elements(), entries.len());
                let reason = format!("has {found} elements, and its part in the index has {expected}");
                return Err(wrong(file.path(), tensor.name(), &reason));
            }
            let planned = || Planned {
                name: tensor.name().into(),
                shape: shape(tensor.name(), &variable.shape, &(0..variable.elements().unwrap_or_default())),
                dtype: tensor.dtype(),
            };
            let (planned, found) =
                plan.entry(tensor.name().into()).or_insert_with(|| (planned(), Vec::new()));
            if planned.dtype != tensor.dtype() {
                let reason = format!("is {}, and {} in a file before", tensor.dtype(), planned.dtype);
                return Err(wrong(file.path(), tensor.name(), &reason));
            }
            found.push((range.start, Part { file: number, range: 0..entries.len() }));
        }
    }
    for (_, parts) in plan.values_mut() {
        parts.sort_by_key(|(start, _)| *start);
    }
    let planned: Vec<_> = plan.values().map(|(planned, _)| planned.clone()).collect();
    let metadata = metadata.unwrap_or_default();
    let mut metadata: Vec<_> = metadata.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
    metadata.retain(|(key, _)| *key != RUN_KEY);
    let seeded = metadata.iter().any(|(key, _)| *key == SEED_KEY);
    metadata.push((VERSION_KEY, version(planned.iter().map(|it| it.name.as_str()), seeded)));
    let written = write_streamed(output, &planned, &metadata, |planned, give| {
        let parts = plan.get(&planned.name).map(|(_, parts)| parts.as_slice()).unwrap_or_default();
        parts.iter().try_for_each(|(_, part)| files.copy(part, &planned.name, give))
    });
    Ok(written?)
}

/// Writes one checkpoint file as a sharded one for this many ranks, and removes the files of the index's earlier runs.
///
/// # Errors
/// A file that cannot be read, lacks a parameter or is a shard itself; more ranks than there are blocks of 4,096 elements;
/// files that cannot be written. The old index is then as it was.
pub fn split(file: impl AsRef<Path>, ranks: usize, index: impl AsRef<Path>) -> Result<(), Error> {
    let (path, index) = (file.as_ref(), index.as_ref());
    require_another_file(index, path)?;
    // Also checks that it is a checkpoint, without reading its elements.
    let counters = lion::checkpoint::Checkpoint::read_part(path, |_, held| held.start..held.start)?;
    let file = TensorFile::open(path)?;
    // A rank's file without shards may have whole variables, but not all.
    if [SHARDS_KEY, RUN_KEY].iter().any(|key| file.metadata(key).is_some()) {
        return Err(wrong(path, "", "is a part of a checkpoint; expected a whole one"));
    }
    let mut variables = BTreeMap::new();
    for tensor in file.tensors() {
        let name = tensor.name().split_once('/').map_or("", |(_, name)| name);
        let Some(parameter) = file.find(&format!("{PARAMETER}{name}")) else {
            return Err(wrong(path, &format!("{PARAMETER}{name}"), "is missing"));
        };
        variables.insert(name, parameter);
    }
    let lengths: Vec<_> = variables.values().map(|parameter| parameter.elements()).collect();
    let layout = Layout::new(&lengths, ranks)?;
    let run = Run::new(index, counters.iterations, Run::random())?;
    let names: Vec<&str> = variables.keys().copied().collect();
    for rank in 0..ranks {
        let mut shard: BTreeMap<_, _> =
            layout.shard(rank).iter().map(|it| (names[it.variable], it.range.clone())).collect();
        if rank == 0 {
            shard
                .extend(variables.iter().filter(|(_, it)| it.elements() == 0).map(|(name, _)| (*name, 0..0)));
        }
        let of = |tensor: &TensorInfo| shard.get(tensor.name().split_once('/')?.1);
        let planned: Vec<_> = file
            .tensors()
            .iter()
            .filter_map(|tensor| {
                let (range, name) = (of(tensor)?, tensor.name().to_owned());
                let entries = entries(&name, range);
                let whole = entries.len() == tensor.elements();
                let shape = if whole { tensor.shape().to_vec() } else { vec![entries.len()] };
                Some(Planned { name, shape, dtype: tensor.dtype() })
            })
            .collect();
        let shapes = shard.iter().filter_map(|(name, range)| {
            let parameter = variables.get(name)?;
            let partial = range.len() < parameter.elements();
            partial.then(|| ((*name).to_owned(), (parameter.shape().to_vec(), range.start, range.end)))
        });
        let shapes: BTreeMap<String, (Vec<usize>, usize, usize)> = shapes.collect();
        let shards = serde_json::json!(shapes).to_string();
        let mut metadata: Vec<_> = file.metadata_entries().collect();
        metadata.retain(|(key, _)| *key != VERSION_KEY);
        let seeded = file.metadata(SEED_KEY).is_some();
        let names = planned.iter().map(|it| it.name.as_str());
        metadata.push((VERSION_KEY, if shapes.is_empty() { version(names, seeded) } else { "2" }));
        metadata.push((RUN_KEY, &run.id));
        if !shapes.is_empty() {
            metadata.push((SHARDS_KEY, &shards));
        }
        let mut files = Files { paths: vec![path.into()], open: BTreeMap::new() };
        write_streamed(run.path(rank, ranks), &planned, &metadata, |planned, give| {
            let range =
                file.find(&planned.name).and_then(of).map_or(0..0, |range| entries(&planned.name, range));
            files.copy(&Part { file: 0, range }, &planned.name, give)
        })?;
    }
    let indexed = variables
        .iter()
        .map(|(name, parameter)| IndexedVariable::new(name, parameter.shape(), parameter.dtype()));
    let files = (0..ranks).map(|rank| IndexedFile::new(run.file_name(rank, ranks), layout.shard(rank)));
    Index::new(run.id.clone(), counters.iterations, indexed.collect(), files.collect()).write(index)?;
    sweep(&run);
    Ok(())
}

/// The entries that a tensor of that name has for some elements of its variable: one for each, or for each block. The
/// elements begin and end with a block, or at the end.
fn entries(name: &str, elements: &Range<usize>) -> Range<usize> {
    match name.starts_with(SCALE) {
        true => {
            let block = lion::Dtype::Q8.block();
            elements.start / block..elements.end.div_ceil(block)
        }
        false => elements.clone(),
    }
}

/// The shape of a tensor of a whole variable.
fn shape(name: &str, variable: &[usize], elements: &Range<usize>) -> Vec<usize> {
    if name.starts_with(SCALE) { vec![entries(name, elements).len()] } else { variable.to_vec() }
}

/// The version of a file that has no shards: the first version that has such tensors.
fn version<'n>(mut names: impl Iterator<Item = &'n str>, seeded: bool) -> &'static str {
    let needs_2 = seeded || names.any(|name| name.starts_with(SCALE) || name.starts_with(LOW));
    if needs_2 { "2" } else { "1" }
}

/// Opens files when they are needed.
struct Files {
    paths: Vec<PathBuf>,
    open: BTreeMap<usize, TensorFile>,
}

impl Files {
    fn open(&mut self, number: usize) -> Result<&TensorFile, lion::Error> {
        if self.open.len() >= MOST_OPEN && !self.open.contains_key(&number) {
            self.open.clear();
        }
        let path = self.paths.get(number).map(PathBuf::as_path).unwrap_or(Path::new(""));
        match self.open.entry(number) {
            std::collections::btree_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::btree_map::Entry::Vacant(place) => Ok(place.insert(TensorFile::open(path)?)),
        }
    }

    /// Gives the elements of a part, piece after piece.
    fn copy(
        &mut self,
        part: &Part,
        name: &str,
        give: &mut dyn FnMut(TensorRef<'_>) -> Result<(), lion::Error>,
    ) -> Result<(), lion::Error> {
        let file = self.open(part.file)?;
        let missing = || lion::Error::File {
            file: file.path().into(),
            tensor: Some(name.into()),
            reason: "is missing".into(),
        };
        let tensor = file.find(name).ok_or_else(missing)?;
        let mut piece = TensorBuf::zeroed(tensor.dtype(), part.range.len().min(PIECE))?;
        let mut start = part.range.start;
        while start < part.range.end {
            let end = part.range.end.min(start + PIECE);
            file.read_range(tensor, start..end, piece.to_mut().range(0..end - start)?)?;
            give(piece.to_ref().range(0..end - start)?)?;
            start = end;
        }
        Ok(())
    }
}

/// Checks that the output is not one of the files that are read.
fn require_another_file(written: &Path, read: &Path) -> Result<(), Error> {
    match (fs::canonicalize(written), fs::canonicalize(read)) {
        (Ok(one), Ok(other)) if one == other => Err(wrong(written, "", "would replace a file that is read")),
        _ => Ok(()),
    }
}

/// Checks that a file belongs to the save that the index names.
pub(crate) fn check_run(file: &TensorFile, index: &Index) -> Result<(), Error> {
    match file.metadata(RUN_KEY) {
        Some(run) if run == index.run => Ok(()),
        Some(run) => {
            let run: String = run.chars().take(40).collect();
            Err(wrong(file.path(), "", &format!("is of the run {run:?}, and the index of {}", index.run)))
        }
        None => Err(wrong(file.path(), "", "is not a part of a sharded checkpoint: its metadata has no run")),
    }
}

fn owned((key, text): (&str, &str)) -> (String, String) {
    (key.to_owned(), text.to_owned())
}

/// An error about a file, and a tensor of it if one is named.
fn wrong(path: &Path, tensor: &str, reason: &str) -> Error {
    let tensor = (!tensor.is_empty()).then(|| tensor.to_owned());
    lion::Error::File { file: path.into(), tensor, reason: reason.into() }.into()
}
