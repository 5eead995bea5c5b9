//! The crate's error type.

use alloc::string::String;

use crate::dispatch::Backend;
use crate::format::Dtype;

/// A kernel error. If a function returns one, no tensor has been written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A hyperparameter outside its range.
    #[error("{name} is {value}, and must be in {range}")]
    Hyperparameter {
        /// Keras's name of the argument.
        name: &'static str,
        /// The given value.
        value: String,
        /// The allowed values, as an interval.
        range: &'static str,
    },
    /// Two tensors of different lengths.
    #[error("the {tensor} has {found} elements; expected {expected}, to match the {reference}")]
    Length {
        /// The name of the tensor.
        tensor: &'static str,
        /// Its length.
        found: usize,
        /// The name of the tensor that sets the length.
        reference: &'static str,
        /// The required length.
        expected: usize,
    },
    /// A missing tensor that the settings require.
    #[error("the {tensor} is missing; the settings require it")]
    MissingTensor {
        /// The name of the tensor.
        tensor: &'static str,
    },
    /// A tensor that the settings do not use.
    #[error("the {tensor} was given, but the settings do not use it")]
    UnusedTensor {
        /// The name of the tensor.
        tensor: &'static str,
    },
    /// An out-of-place step between two formats.
    #[error("the source is {found}; expected {expected}, to match the parameter")]
    SourceDtype {
        /// The source's format.
        found: Dtype,
        /// The parameter's format.
        expected: Dtype,
    },
    /// A range that is not within its tensor.
    #[error("the range {start}..{end} is not within the tensor; expected a range within 0..{len}")]
    Range {
        /// The first element of the range.
        start: usize,
        /// One past the last element of the range.
        end: usize,
        /// The tensor's length.
        len: usize,
    },
    /// A cut inside a block of a tensor's format.
    #[error("the {dtype} tensor is cut at element {at}; expected a multiple of {block}")]
    CutBlock {
        /// The format.
        dtype: Dtype,
        /// The element at which the tensor is cut.
        at: usize,
        /// The number of elements in a block of the format.
        block: usize,
    },
    /// A task that begins at an unaligned element of its variable.
    #[error(
        "the task begins at element {first} of its variable; expected a multiple of {}",
        crate::task::Task::ALIGNMENT
    )]
    FirstElement {
        /// The index of the task's first element in the variable.
        first: u64,
    },
    /// A format that a tensor's role does not allow.
    #[error("the {tensor} is {found}; expected {expected}")]
    Format {
        /// The name of the tensor.
        tensor: &'static str,
        /// Its format.
        found: Dtype,
        /// The allowed formats.
        expected: String,
    },
    /// A tensor built from the wrong number of streams.
    #[error("the {dtype} tensor is given {found} streams; expected {expected}")]
    Streams {
        /// The format.
        dtype: Dtype,
        /// The number of given streams.
        found: usize,
        /// The number of streams of the format.
        expected: usize,
    },
    /// A buffer for block statistics of the wrong length.
    #[error("the statistics buffer has {found} blocks; expected {expected} for {elements} elements")]
    Blocks {
        /// The buffer's length.
        found: usize,
        /// The required length.
        expected: usize,
        /// The gradient's length.
        elements: usize,
    },
    /// A sum over no leaves, or over too many leaves.
    #[error("a sum has {found} leaves; expected 1 to {}", crate::sum::SumTree::MAX_LEAVES)]
    Leaves {
        /// The number of leaves.
        found: usize,
    },
    /// Sources of a sum that are not subtrees of its tree.
    #[error("the {sources} sources of a sum over {leaves} leaves are not subtrees of its tree")]
    Subtrees {
        /// The number of sources.
        sources: usize,
        /// The number of leaves of all sources together.
        leaves: usize,
    },
    /// The wrong number of tensors for a sum.
    #[error("the sum is given {found} sources; expected {expected}")]
    Sources {
        /// The number of given sources.
        found: usize,
        /// The number of sources of the sum.
        expected: usize,
    },
    /// A backend name that does not exist.
    #[error("backend {name:?} does not exist; available here: {}", Backend::available_names())]
    UnknownBackend {
        /// The given name.
        name: String,
    },
    /// A backend that this machine does not support.
    #[error(
        "the backend {backend} is not available on this machine; available here: {}",
        Backend::available_names()
    )]
    UnavailableBackend {
        /// The requested backend.
        backend: Backend,
    },
    /// A format name that does not exist.
    #[error("dtype {name:?} does not exist; known: {}", Dtype::list(Dtype::ALL.iter().copied()))]
    UnknownDtype {
        /// The given name.
        name: String,
    },
    /// A failed allocation.
    #[error("no memory for {elements} elements of {dtype}")]
    OutOfMemory {
        /// The number of requested elements.
        elements: usize,
        /// Their format.
        dtype: Dtype,
    },
}

/// Checks that a tensor has the length of another.
#[inline]
pub(crate) fn check_length(
    tensor: &'static str,
    found: usize,
    reference: &'static str,
    expected: usize,
) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { tensor, found, reference, expected }) }
}
