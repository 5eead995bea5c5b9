use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::path::{Path, PathBuf};

use lion_kernels::{Dtype, TensorMut};

use super::header::{self, Header, RawTensor};
use super::{ErrorContext, LENGTH, LONGEST_HEADER, TOO_MANY, bytes_mut, dtype_of, dtypes, name_of, reorder};
use crate::variable::elements;
use crate::{Error, TensorBuf, first_bytes};

/// A tensor file, open for reading. Its header has been read and checked; its elements are read on request.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.safetensors");
/// use lion::tensor_file::{self, Entry, TensorFile};
///
/// let values = [1.0_f32, 2.0, 3.0];
/// let entry = Entry { name: "dense.bias", shape: &[3], values: (&values[..]).into() };
/// tensor_file::write(&path, &[entry], &[("made by", "an example")])?;
///
/// let file = TensorFile::open(&path)?;
/// assert_eq!(file.metadata("made by"), Some("an example"));
/// let bias = file.find("dense.bias").expect("it was written");
/// let mut read = [0.0_f32; 3];
/// file.read(bias, &mut read[..])?;
/// assert_eq!(read, values);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    metadata: Vec<(String, String)>,
    /// Sorted by name.
    tensors: Vec<TensorInfo>,
}

/// Name, dtype, shape and position of a tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    len: usize,
    /// In bytes from the start of the file.
    offset: u64,
}

impl TensorInfo {
    /// Returns the tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the tensor's dtype.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Returns the tensor's shape; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the number of elements.
    pub fn elements(&self) -> usize {
        self.len
    }
}

impl TensorFile {
    /// Opens a file, and reads and checks its header.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read. [`Error::File`] if it is not valid and complete, or if a tensor is not
    /// F32, F16, BF16, I16 or I8.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path.as_ref(), true)
    }

    /// Opens a file as [`open`](Self::open) does, but ignores tensors of other dtypes instead of refusing them.
    ///
    /// # Errors
    /// As those of [`open`](Self::open).
    pub fn open_lenient(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path.as_ref(), false)
    }

    fn open_with(path: &Path, strict: bool) -> Result<Self, Error> {
        let place = ErrorContext::file(path);
        // Checked before the file is opened, as opening a pipe waits for its writer.
        let is_file = fs::metadata(path).map_err(place.io("cannot open"))?.is_file();
        if !is_file {
            return Err(place.is("is not a regular file"));
        }
        let mut file = File::open(path).map_err(place.io("cannot open"))?;
        let size = file.metadata().map_err(place.io("cannot read"))?.len();
        let text = read_header(&mut file, size, place)?;
        let Header { metadata, tensors } = header::parse(&text)
            .map_err(|(tensor, reason)| ErrorContext { path, tensor: tensor.as_deref() }.is(reason))?;
        if let Some(key) = duplicate(metadata.iter().map(|(key, _)| key.as_str()).collect()) {
            return Err(place.is(format!("duplicate metadata key {key:?}")));
        }
        if let Some(name) = duplicate(tensors.iter().map(|tensor| tensor.name.as_str()).collect()) {
            return Err(ErrorContext::tensor(path, name).is("duplicate tensor name"));
        }
        let start = (LENGTH + text.len()) as u64;
        let mut tensors = check(path, tensors, start, size - start, strict)?;
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(TensorFile { path: path.into(), file, metadata, tensors })
    }

    /// Returns the path that the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the tensors, sorted by the bytes of their names.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Returns the tensor of that name.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        let index = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        self.tensors.get(index)
    }

    /// Returns the text that the metadata has under `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(found, _)| found == key).map(|(_, text)| text.as_str())
    }

    /// Returns all metadata, in the order of the file.
    pub fn metadata_entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.metadata.iter().map(|(key, text)| (key.as_str(), text.as_str()))
    }

    /// Reads the elements of a tensor of this file.
    ///
    /// # Errors
    /// [`Error::File`] if dtype or length of `into` differ from the tensor's, or if the file has become shorter.
    /// [`Error::Io`] if it cannot be read. On an error the content of `into` is unspecified.
    pub fn read<'a>(&self, tensor: &TensorInfo, into: impl Into<TensorMut<'a>>) -> Result<(), Error> {
        self.read_range(tensor, 0..tensor.len, into)
    }

    /// Reads a range of elements of a tensor of this file, in row-major order.
    ///
    /// # Errors
    /// As those of [`read`](Self::read), and a range outside the tensor.
    pub fn read_range<'a>(
        &self,
        tensor: &TensorInfo,
        range: Range<usize>,
        into: impl Into<TensorMut<'a>>,
    ) -> Result<(), Error> {
        let mut into = into.into();
        let place = ErrorContext::tensor(&self.path, &tensor.name);
        if range.start > range.end || range.end > tensor.len {
            let (Range { start, end }, len) = (range, tensor.len);
            return Err(
                place.is(format!("has the elements 0..{len}; the range {start}..{end} was requested"))
            );
        }
        if into.dtype() != tensor.dtype || into.len() != range.len() {
            let (found, wanted) = (into.dtype(), tensor.dtype);
            let (room, len) = (into.len(), range.len());
            return Err(
                place.is(format!("is {len} elements of {wanted}; the destination has {room} of {found}"))
            );
        }
        let bytes = bytes_mut(&mut into);
        let start = tensor.offset + (range.start * tensor.dtype.size()) as u64;
        let end = start + bytes.len() as u64;
        read_exact_at(&self.file, bytes, start)
            .map_err(|source| short_read(&self.file, end, place, source))?;
        reorder(bytes, tensor.dtype);
        Ok(())
    }

    /// Reads the elements of a tensor of this file into a new buffer.
    ///
    /// # Errors
    /// As those of [`read`](Self::read), and out of memory.
    pub fn read_values(&self, tensor: &TensorInfo) -> Result<TensorBuf, Error> {
        self.read_values_of(tensor, 0..tensor.len)
    }

    /// Reads a range of elements of a tensor of this file into a new buffer.
    ///
    /// # Errors
    /// As those of [`read_range`](Self::read_range), and out of memory.
    pub(crate) fn read_values_of(
        &self,
        tensor: &TensorInfo,
        range: Range<usize>,
    ) -> Result<TensorBuf, Error> {
        let mut values = TensorBuf::zeroed(tensor.dtype, range.len())
            .map_err(|source| ErrorContext::tensor(&self.path, &tensor.name).is(source.to_string()))?;
        self.read_range(tensor, range, values.to_mut())?;
        Ok(values)
    }

    /// Returns an error about this file, or about a tensor of it.
    pub(crate) fn error(&self, tensor: Option<&str>, reason: impl Into<String>) -> Error {
        ErrorContext { path: &self.path, tensor }.is(reason)
    }
}

/// The end of an error about a file that is shorter than its header says.
const CUT: &str = "it was cut short, or is still being written";

/// Reads the header, and leaves the file's position at the first element.
fn read_header(file: &mut File, size: u64, place: ErrorContext<'_>) -> Result<Vec<u8>, Error> {
    let mut first = Vec::new();
    Read::by_ref(file)
        .take(first_bytes::LONGEST as u64)
        .read_to_end(&mut first)
        .map_err(place.io("cannot read"))?;
    let Some((length, header)) = first.split_first_chunk().filter(|_| size >= LENGTH as u64) else {
        let found = first.len();
        return Err(place.is(format!("has {found} bytes, and the length of a header takes {LENGTH}; {CUT}")));
    };
    let (length, rest) = (u64::from_le_bytes(*length), size - LENGTH as u64);
    let begins = header.first() == Some(&b'{');
    // A valid file can begin with the first bytes of another kind, so `{` after the length decides.
    if let Some(kind) = first_bytes::kind(&first).filter(|_| !begins) {
        return Err(place.is(kind.instead_of("a safetensors file")));
    }
    if length > LONGEST_HEADER {
        let split = if begins && length <= rest { TOO_MANY } else { "" };
        return Err(
            place.is(format!("its header claims {length} bytes, and may have {LONGEST_HEADER}{split}"))
        );
    }
    if length > rest {
        let cut = if begins { format!("; {CUT}") } else { String::new() };
        return Err(place.is(format!("its header claims {length} bytes, and the file has {rest} more{cut}")));
    }
    if !begins || length == 0 {
        return Err(place.is("is not a safetensors file: its header does not begin with {"));
    }
    // The length is at most LONGEST_HEADER, which fits in a usize.
    let length = usize::try_from(length).unwrap_or_default();
    let mut text = Vec::new();
    text.try_reserve_exact(length)
        .map_err(|_| Error::OutOfMemory { what: "bytes of a header", elements: length })?;
    text.resize(length, 0);
    file.seek(io::SeekFrom::Start(LENGTH as u64)).map_err(place.io("cannot read"))?;
    let end = (LENGTH + length) as u64;
    file.read_exact(&mut text).map_err(|source| short_read(file, end, place, source))?;
    Ok(text)
}

/// Returns the error of a read up to byte `end`, which existed when the file was opened.
fn short_read(file: &File, end: u64, place: ErrorContext<'_>, source: io::Error) -> Error {
    if source.kind() != io::ErrorKind::UnexpectedEof {
        return place.io("cannot read")(source);
    }
    let size = file.metadata().map_or_else(|_| "less".into(), |found| format!("{} bytes", found.len()));
    place.is(format!("ended early while it was read, before byte {end}: the file now has {size}; {CUT}"))
}

/// Returns a name that occurs twice.
fn duplicate(mut names: Vec<&str>) -> Option<&str> {
    names.sort_unstable();
    names.windows(2).find_map(|pair| match pair {
        [a, b] if a == b => Some(*a),
        _ => None,
    })
}

/// Checks the header's tensors against the file's data: `size` bytes at `start`.
fn check(
    path: &Path,
    mut raw: Vec<RawTensor>,
    start: u64,
    size: u64,
    strict: bool,
) -> Result<Vec<TensorInfo>, Error> {
    raw.sort_by_key(|tensor| (tensor.begin, tensor.end));
    let mut tensors = Vec::with_capacity(raw.len());
    let mut covered = 0;
    for RawTensor { name, dtype, shape, begin, end } in raw {
        let place = ErrorContext::tensor(path, &name);
        if begin > end || end > size {
            let cut = if begin <= end { format!("; {CUT}") } else { String::new() };
            return Err(place.is(format!(
                "its data_offsets are [{begin}, {end}], and the file has data for [0, {size}]{cut}"
            )));
        }
        if begin != covered {
            let what = if begin < covered { "overlaps another tensor" } else { "comes after a gap" };
            let reason = format!("{what}: its data begins at {begin}, and that before ends at {covered}");
            return Err(place.is(reason));
        }
        covered = end;
        let Some(dtype) = dtype_of(&dtype) else {
            if strict {
                let dtype = dtype.chars().take(20).collect::<String>();
                let known: Vec<_> = dtypes().map(name_of).collect();
                return Err(
                    place.is(format!("its dtype is {dtype:?}, and must be one of {}", known.join(", ")))
                );
            }
            continue;
        };
        let extents: Result<Vec<_>, _> = shape.iter().map(|&extent| usize::try_from(extent)).collect();
        let Ok(extents) = extents else {
            return Err(place.is("its shape does not fit in the memory of this machine"));
        };
        let len = elements(&extents);
        let bytes = len.and_then(|len| (len as u64).checked_mul(dtype.size() as u64));
        if bytes != Some(end - begin) {
            let wanted =
                bytes.map_or("more bytes than fit in 64 bits".into(), |bytes| format!("{bytes} bytes"));
            let shape = short(&shape);
            let reason = format!("{dtype} of shape {shape} is {wanted}, and its data has {}", end - begin);
            return Err(place.is(reason));
        }
        tensors.push(TensorInfo {
            name,
            dtype,
            shape: extents,
            len: len.unwrap_or_default(),
            offset: start + begin,
        });
    }
    if covered != size {
        let reason = format!("the tensors end at byte {covered} of the data, and the file has {size}");
        return Err(ErrorContext::file(path).is(reason));
    }
    Ok(tensors)
}

/// Returns a shape as an error shows it, shortened.
fn short(shape: &[u64]) -> String {
    const MOST: usize = 8;
    match shape.get(..MOST) {
        Some(first) if shape.len() > MOST => format!("{first:?} and {} more extents", shape.len() - MOST),
        _ => format!("{shape:?}"),
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

/// Moves the file's position, so that only one thread at a time may read.
#[cfg(not(unix))]
fn read_exact_at(mut file: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
    io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
    file.read_exact(into)
}
