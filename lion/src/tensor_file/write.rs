use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use lion_autotune::replace::replace;
use lion_kernels::{Dtype, TensorRef};
use serde_json::{Map, Value, json};

use super::{Entry, ErrorContext, LENGTH, LONGEST_HEADER, METADATA, TOO_MANY, bytes, name_of, reorder};
use crate::Error;
use crate::variable::elements;

/// Writes a tensor file atomically, by [`lion_autotune::replace`]: after a crash or an error the old file or the new one is
/// there, complete. A replaced file keeps its mode, its owner if the system allows it, and a symbolic link to it.
///
/// Tensors are sorted by element size, largest first, so that each is aligned, and then by name. The same tensors and
/// metadata give the same bytes.
///
/// # Errors
/// [`Error::File`] for a duplicate or reserved name, a shape that does not match the number of values, and a dtype of two
/// streams. [`Error::Io`] if the file cannot be written.
pub fn write<'a>(
    path: impl AsRef<Path>,
    tensors: &[Entry<'a>],
    metadata: &[(&str, &str)],
) -> Result<(), Error> {
    let path = path.as_ref();
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by(|a, b| {
        let size = |entry: &Entry<'a>| entry.values.dtype().size();
        size(b).cmp(&size(a)).then_with(|| a.name.cmp(b.name))
    });
    let heading = |entry: &&Entry<'a>| Heading {
        name: entry.name,
        shape: entry.shape,
        dtype: entry.values.dtype(),
        len: entry.values.len(),
    };
    let headings: Vec<_> = sorted.iter().map(heading).collect();
    let header = header(path, &headings, metadata)?;
    let written = replace(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        sorted.iter().try_for_each(|entry| write_values(file, &entry.values))
    });
    written.map_err(ErrorContext::file(path).io("cannot write"))
}

/// A tensor whose elements are written piece by piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its name, which no other tensor of the file may have.
    pub name: String,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its dtype, of one stream.
    pub dtype: Dtype,
}

/// Writes a file as [`write()`] does, without holding all elements in memory. `values` is called once for each tensor, in
/// the order of the file, and passes the elements to its second argument in pieces of any length.
///
/// # Errors
/// As [`write()`], those of `values`, and [`Error::File`] if `values` passes another number of elements or another dtype.
pub fn write_streamed(
    path: impl AsRef<Path>,
    tensors: &[Planned],
    metadata: &[(&str, &str)],
    mut values: impl FnMut(&Planned, &mut dyn FnMut(TensorRef<'_>) -> Result<(), Error>) -> Result<(), Error>,
) -> Result<(), Error> {
    let path = path.as_ref();
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by(|a, b| b.dtype.size().cmp(&a.dtype.size()).then_with(|| a.name.cmp(&b.name)));
    let mut headings = Vec::new();
    for Planned { name, shape, dtype } in sorted.iter().copied() {
        let len = elements(shape).filter(|len| len.checked_mul(dtype.size()).is_some());
        let len = len.ok_or_else(|| {
            ErrorContext::tensor(path, name).is("does not fit in the memory of this machine")
        })?;
        headings.push(Heading { name, shape, dtype: *dtype, len });
    }
    let header = header(path, &headings, metadata)?;
    // `replace` returns only the system's errors, so other errors bypass it through this variable.
    let mut failed = None;
    let written = replace(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (planned, Heading { name, dtype, len, .. }) in sorted.iter().copied().zip(&headings) {
            let (mut left, wrong) = (*len, |reason| ErrorContext::tensor(path, name).is(reason));
            let streamed = values(planned, &mut |piece| {
                if piece.dtype() != *dtype || piece.len() > left {
                    let (found, more) = (piece.dtype(), piece.len());
                    return Err(wrong(format!(
                        "is given {more} elements of {found}; expected at most {left} of {dtype}"
                    )));
                }
                left -= piece.len();
                write_values(file, &piece).map_err(ErrorContext::tensor(path, name).io("cannot write"))
            });
            let complete =
                || if left == 0 { Ok(()) } else { Err(wrong(format!("lacks {left} of its {len} elements"))) };
            if let Err(error) = streamed.and_then(|()| complete()) {
                failed = Some(error);
                return Err(io::Error::other("a tensor that cannot be written"));
            }
        }
        Ok(())
    });
    match failed {
        Some(error) => Err(error),
        None => written.map_err(ErrorContext::file(path).io("cannot write")),
    }
}

/// A tensor's entry in the header.
struct Heading<'a> {
    name: &'a str,
    shape: &'a [usize],
    dtype: Dtype,
    len: usize,
}

fn header(path: &Path, sorted: &[Heading<'_>], metadata: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
    let mut names = std::collections::HashSet::new();
    let mut text = String::from("{");
    if !metadata.is_empty() {
        let texts: Map<String, Value> =
            metadata.iter().map(|&(key, text)| (key.to_owned(), text.into())).collect();
        if texts.len() < metadata.len() {
            return Err(ErrorContext::file(path).is("duplicate metadata key"));
        }
        text.push_str(&format!("\"{METADATA}\":{}", Value::from(texts)));
    }
    let mut begin = 0_u64;
    for Heading { name, shape, dtype, len } in sorted {
        let place = ErrorContext::tensor(path, name);
        if *name == METADATA || !names.insert(*name) {
            return Err(place.is("the name is reserved or taken"));
        }
        if elements(shape) != Some(*len) {
            return Err(place.is(format!("the shape {shape:?} does not have its {len} elements")));
        }
        if dtype.streams().len() > 1 {
            return Err(
                place.is(format!("a {dtype} tensor has two streams, which are two tensors of a file"))
            );
        }
        let end = begin + (len * dtype.size()) as u64;
        if text.len() > 1 {
            text.push(',');
        }
        // Written by hand to fix the order: whether serde_json sorts an object depends on its features.
        let (dtype, name) = (name_of(*dtype), json!(name));
        text.push_str(&format!(
            "{name}:{{\"dtype\":\"{dtype}\",\"shape\":{},\"data_offsets\":[{begin},{end}]}}",
            json!(shape)
        ));
        begin = end;
    }
    text.push('}');
    // The padding aligns the first element to 8 bytes.
    let padded = text.len().next_multiple_of(LENGTH);
    let mut text = text.into_bytes();
    text.resize(padded, b' ');
    if text.len() as u64 > LONGEST_HEADER {
        let reason =
            format!("the header would have {} bytes, and may have {LONGEST_HEADER}{TOO_MANY}", text.len());
        return Err(ErrorContext::file(path).is(reason));
    }
    Ok(text)
}

fn write_values(file: &mut File, values: &TensorRef<'_>) -> io::Result<()> {
    let bytes = bytes(values);
    if cfg!(target_endian = "little") {
        return file.write_all(bytes);
    }
    const CHUNK: usize = 1 << 16;
    bytes.chunks(CHUNK).try_for_each(|chunk| {
        let mut chunk = chunk.to_vec();
        reorder(&mut chunk, values.dtype());
        file.write_all(&chunk)
    })
}
