//! Tensors in a file: reading and writing the [safetensors](https://github.com/huggingface/safetensors) format.
//!
//! A file is the length of its header, the header as JSON, and the elements of all tensors without a gap. Nothing in a
//! header is believed before it has been held against the size of the file, so no file makes the reader allocate more
//! than a small multiple of its header, and for the elements no more than the file has. Any bytes at all give a tensor
//! file or an error.
//!
//! Tensors are read when they are asked for, at their position in the file, into memory that is already there. The file
//! is not mapped: where another process cuts a file short, a read gives an error, and a mapping ends the process.
//!
//! The code is this crate's own, and not that of the crate `safetensors`: that one keeps the last of two tensors of the
//! same name, wants the whole file in memory or mapped, and does not say in an error which tensor it is about.

mod header;
mod read;
mod write;

use std::path::{Path, PathBuf};

use lion_kernels::{Dtype, TensorMut, TensorRef};

use crate::Error;

pub use read::{TensorFile, TensorInfo};
pub use write::{Planned, write, write_streamed};

/// A tensor to be written.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name, which no other tensor of the file may have.
    pub name: &'a str,
    /// Its extents; none for a scalar.
    pub shape: &'a [usize],
    /// Its elements, of a format of one stream.
    pub values: TensorRef<'a>,
}

/// The longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;
/// What to do with more tensors than that.
const TOO_MANY: &str = ", which is about a million tensors: split a run into files of fewer steps, each with all \
                        param/<name> and from grad/0 on, and replay each with --state, the result of the one before it";
/// The key of the header that is not a tensor.
const METADATA: &str = "__metadata__";
/// The bytes before the header, which hold its length.
const LENGTH: usize = size_of::<u64>();

/// The file's name of a dtype of one stream.
fn name_of(dtype: Dtype) -> String {
    dtype.name().to_ascii_uppercase()
}

/// Every dtype that a file may have. A tensor of two streams is two tensors of a file.
fn dtypes() -> impl Iterator<Item = Dtype> {
    Dtype::ALL.iter().copied().filter(|dtype| dtype.streams().len() == 1)
}

fn dtype_of(name: &str) -> Option<Dtype> {
    dtypes().find(|&dtype| name_of(dtype) == name)
}

/// The elements as the bytes that they are in memory.
fn bytes<'a>(values: &TensorRef<'a>) -> &'a [u8] {
    values.as_bytes(0).unwrap_or_default()
}

fn bytes_mut<'a>(values: &'a mut TensorMut<'_>) -> &'a mut [u8] {
    values.as_bytes_mut(0).unwrap_or_default()
}

/// Turns elements in the order of this machine into those of the file, which is little-endian, or back.
fn reorder(bytes: &mut [u8], dtype: Dtype) {
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
}

/// Where in which file, for errors.
#[derive(Clone, Copy, Debug)]
struct ErrorContext<'a> {
    path: &'a Path,
    tensor: Option<&'a str>,
}

impl<'a> ErrorContext<'a> {
    fn file(path: &'a Path) -> Self {
        ErrorContext { path, tensor: None }
    }

    fn tensor(path: &'a Path, name: &'a str) -> Self {
        ErrorContext { path, tensor: Some(name) }
    }

    fn is(self, reason: impl Into<String>) -> Error {
        Error::File {
            file: PathBuf::from(self.path),
            tensor: self.tensor.map(str::to_owned),
            reason: reason.into(),
        }
    }

    fn io(self, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        move |reason| Error::Io {
            file: PathBuf::from(self.path),
            tensor: self.tensor.map(str::to_owned),
            action,
            reason,
        }
    }
}
