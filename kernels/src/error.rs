use alloc::string::String;

use crate::dispatch::Backend;
use crate::format::Dtype;

/// Why a call did nothing. Nothing has been written where one is returned.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A hyperparameter outside its range.
    #[error("{name} is {value}, and must be in {range}")]
    Hyperparameter {
        /// Keras's name of the argument.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is allowed, as an interval.
        range: &'static str,
    },
    /// A tensor that is not as long as the parameter.
    #[error("the {tensor} has {found} elements, and must have {expected} as the {reference} has")]
    Length {
        /// Which tensor.
        tensor: &'static str,
        /// Its length.
        found: usize,
        /// The tensor that sets the length.
        reference: &'static str,
        /// Its length.
        expected: usize,
    },
    /// A tensor that the settings call for and the call lacks.
    #[error("the settings need the {tensor}, and none was given")]
    MissingTensor {
        /// Which tensor.
        tensor: &'static str,
    },
    /// A tensor that the call gives and the settings do not use.
    #[error("the {tensor} was given, and the settings do not use it")]
    UnusedTensor {
        /// Which tensor.
        tensor: &'static str,
    },
    /// A step out of place between two formats.
    #[error("the source is {found}, and must be {expected} as the parameter is")]
    SourceDtype {
        /// The source's format.
        found: Dtype,
        /// The parameter's format.
        expected: Dtype,
    },
    /// A range that is not within its tensor.
    #[error("the range {start}..{end} is not within the tensor; expected a range within 0..{len}")]
    Range {
        /// Its first element.
        start: usize,
        /// One past its last element.
        end: usize,
        /// The tensor's length.
        len: usize,
    },
    /// A tensor cut within a block of its format.
    #[error("a {dtype} tensor is cut at element {at}; expected a multiple of {block}")]
    CutBlock {
        /// The format.
        dtype: Dtype,
        /// Where it is cut.
        at: usize,
        /// Elements of a block of the format.
        block: usize,
    },
    /// The first element of a task within its variable, inside a block.
    #[error(
        "the task begins at element {first} of its variable; expected a multiple of {}",
        crate::task::Task::ALIGNMENT
    )]
    FirstElement {
        /// The element.
        first: u64,
    },
    /// A tensor of a format that its role does not take.
    #[error("the {tensor} is {found}; expected {expected}")]
    Format {
        /// Which tensor.
        tensor: &'static str,
        /// Its format.
        found: Dtype,
        /// What is allowed.
        expected: String,
    },
    /// A tensor put together of other streams than its format has.
    #[error("a {dtype} tensor has {expected} stream(s), and {found} were given")]
    Streams {
        /// The format.
        dtype: Dtype,
        /// How many were given.
        found: usize,
        /// How many it has.
        expected: usize,
    },
    /// A buffer for block statistics of the wrong length.
    #[error("there is room for {found} blocks, and {elements} elements have {expected}")]
    Blocks {
        /// The buffer's length.
        found: usize,
        /// What it must be.
        expected: usize,
        /// The gradient's length.
        elements: usize,
    },
    /// A sum over no leaves, or over too many.
    #[error("a sum has {found} leaves; expected 1 to {}", crate::sum::SumTree::MAX_LEAVES)]
    Leaves {
        /// How many.
        found: usize,
    },
    /// Parts of a sum that are not subtrees.
    #[error("the {sources} parts of a sum over {leaves} leaves are not subtrees of its tree")]
    Subtrees {
        /// How many parts.
        sources: usize,
        /// How many leaves they have together.
        leaves: usize,
    },
    /// Another number of tensors than a sum has.
    #[error("the sum is given {found} sources, and must be given {expected}")]
    Sources {
        /// How many there are.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
    /// A backend name that does not exist.
    #[error("there is no backend {name:?}; available here: {}", Backend::available_names())]
    UnknownBackend {
        /// What was asked for.
        name: String,
    },
    /// A backend that this machine lacks.
    #[error(
        "the backend {backend} is not available on this machine; available here: {}",
        Backend::available_names()
    )]
    UnavailableBackend {
        /// What was asked for.
        backend: Backend,
    },
    /// A format name that does not exist.
    #[error("there is no dtype {name:?}; known: {}", Dtype::list(Dtype::ALL.iter().copied()))]
    UnknownDtype {
        /// What was asked for.
        name: String,
    },
    /// Memory that could not be had.
    #[error("no memory for {elements} elements of {dtype}")]
    OutOfMemory {
        /// How many elements were wanted.
        elements: usize,
        /// Of which format.
        dtype: Dtype,
    },
}

/// That a tensor is as long as another.
#[inline]
pub(crate) fn same_length(
    tensor: &'static str,
    found: usize,
    reference: &'static str,
    expected: usize,
) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { tensor, found, reference, expected }) }
}
