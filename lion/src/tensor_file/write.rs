use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use lion_autotune::replace::replace;
use serde_json::{Map, Value, json};

use super::{Entry, LENGTH, LONGEST_HEADER, METADATA, Place, TOO_MANY, bytes, name_of, reorder};
use crate::Error;
use crate::variable::elements;

/// Writes a file of tensors, atomically, as [`lion_autotune::replace`] does: after a crash at any point, or an error,
/// there is the old file whole, or the new one. A file that is replaced keeps its mode, its owner where that is allowed,
/// and the symbolic link that leads to it.
///
/// The order of the file is that of the elements' size, large ones first, so that each tensor is aligned, and within
/// it that of the names. The same tensors and metadata make the same bytes.
///
/// # Errors
/// [`Error::File`] for a name that is there twice or reserved, a shape that is not that of the values, and values of a
/// format of two streams;
/// [`Error::Io`] where the file cannot be written.
pub fn write(path: impl AsRef<Path>, tensors: &[Entry<'_>], metadata: &[(&str, &str)]) -> Result<(), Error> {
    let path = path.as_ref();
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by(|a, b| {
        let size = |entry: &Entry<'_>| entry.values.dtype().size();
        size(b).cmp(&size(a)).then_with(|| a.name.cmp(b.name))
    });
    let header = header(path, &sorted, metadata)?;
    let written = replace(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        sorted.iter().try_for_each(|entry| write_values(file, entry))
    });
    written.map_err(Place::file(path).io("cannot write"))
}

fn header(path: &Path, sorted: &[&Entry<'_>], metadata: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
    let mut names = std::collections::HashSet::new();
    let mut text = String::from("{");
    if !metadata.is_empty() {
        let texts: Map<String, Value> =
            metadata.iter().map(|&(key, text)| (key.to_owned(), text.into())).collect();
        if texts.len() < metadata.len() {
            return Err(Place::file(path).is("the metadata has a key twice"));
        }
        text.push_str(&format!("\"{METADATA}\":{}", Value::from(texts)));
    }
    let mut begin = 0_u64;
    for Entry { name, shape, values } in sorted.iter().copied() {
        let place = Place::tensor(path, name);
        if *name == METADATA || !names.insert(*name) {
            return Err(place.is("the name is taken"));
        }
        if elements(shape) != Some(values.len()) {
            return Err(place.is(format!("the shape {shape:?} does not have its {} elements", values.len())));
        }
        if values.dtype().streams().len() > 1 {
            return Err(place.is(format!(
                "a {} tensor has two streams, which are two tensors of a file",
                values.dtype()
            )));
        }
        let end = begin + bytes(values).len() as u64;
        if text.len() > 1 {
            text.push(',');
        }
        // Not one object for all of them, as serde_json would sort it, or not.
        let (dtype, name) = (name_of(values.dtype()), json!(name));
        text.push_str(&format!(
            "{name}:{{\"dtype\":\"{dtype}\",\"shape\":{},\"data_offsets\":[{begin},{end}]}}",
            json!(shape)
        ));
        begin = end;
    }
    text.push('}');
    // The first element is aligned to the length's own size.
    let padded = text.len().next_multiple_of(LENGTH);
    let mut text = text.into_bytes();
    text.resize(padded, b' ');
    if text.len() as u64 > LONGEST_HEADER {
        let reason =
            format!("the header would have {} bytes, and may have {LONGEST_HEADER}{TOO_MANY}", text.len());
        return Err(Place::file(path).is(reason));
    }
    Ok(text)
}

fn write_values(file: &mut File, entry: &Entry<'_>) -> io::Result<()> {
    let bytes = bytes(&entry.values);
    if cfg!(target_endian = "little") {
        return file.write_all(bytes);
    }
    const CHUNK: usize = 1 << 16;
    bytes.chunks(CHUNK).try_for_each(|chunk| {
        let mut chunk = chunk.to_vec();
        reorder(&mut chunk, entry.values.dtype());
        file.write_all(&chunk)
    })
}
