//! Reads and writes files in the [safetensors](https://github.com/huggingface/safetensors) format.
//!
//! A file has the length of its header, the header as JSON, and the elements of all tensors without gaps. The reader checks
//! every value of the header against the file's size before using it. It allocates at most a small multiple of the header,
//! and for elements no more than the file holds. Any input gives a tensor file or an error.
//!
//! Each tensor is read on request, at its position in the file, into the caller's memory. The file is not mapped: if
//! another process truncates it, a read returns an error, but a mapping would kill the process.
//!
//! This module does not use the crate `safetensors`, because that crate keeps the last of two tensors of the same name,
//! needs the whole file in memory or mapped, and does not name the tensor in its errors.

mod header;
mod read;
mod write;

use std::path::{Path, PathBuf};

use lion_kernels::{Dtype, TensorMut, TensorRef};

use crate::Error;

pub use read::{TensorFile, TensorInfo};
pub use write::{Planned, write, write_streamed};

/// A tensor to write.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name, which no other tensor of the file may have.
    pub name: &'a str,
    /// Its shape; empty for a scalar.
    pub shape: &'a [usize],
    /// Its elements, in a dtype of one stream.
    pub values: TensorRef<'a>,
}

/// The longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;
/// The remedy for a longer header.
const TOO_MANY: &str = ", which is about a million tensors: split a run into files of fewer steps, each with all \
                        param/<name> and from grad/0 on, and replay each with --state, the result of the one before it";
/// The key of the header that holds the metadata.
const METADATA: &str = "__metadata__";
/// The number of bytes before the header, which hold its length.
const LENGTH: usize = size_of::<u64>();

/// Returns the format's name of a dtype.
fn name_of(dtype: Dtype) -> String {
    dtype.name().to_ascii_uppercase()
}

/// Iterates over the dtypes that a file can have. A dtype of two streams is stored as two tensors.
fn dtypes() -> impl Iterator<Item = Dtype> {
    Dtype::ALL.iter().copied().filter(|dtype| dtype.streams().len() == 1)
}

fn dtype_of(name: &str) -> Option<Dtype> {
    dtypes().find(|&dtype| name_of(dtype) == name)
}

/// Returns the elements as bytes.
fn bytes<'a>(values: &TensorRef<'a>) -> &'a [u8] {
    values.as_bytes(0).unwrap_or_default()
}

fn bytes_mut<'a>(values: &'a mut TensorMut<'_>) -> &'a mut [u8] {
    values.as_bytes_mut(0).unwrap_or_default()
}

/// Swaps the elements' bytes between this machine's order and the file's, which is little-endian.
fn reorder(bytes: &mut [u8], dtype: Dtype) {
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
}

/// The file, and the tensor in it, that an error is about.
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
