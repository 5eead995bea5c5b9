/// Why a call did nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A hyperparameter, backend or memory that a kernel refuses.
    #[error(transparent)]
    Kernel(#[from] lion_kernels::Error),
    /// A tensor of a variable that a kernel refuses.
    #[error("variable {name:?}: {source}")]
    Tensor {
        /// The variable.
        name: String,
        /// What is wrong with its tensor.
        source: lion_kernels::Error,
    },
    /// A second variable of the same name.
    #[error("there is a variable {name:?} already")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A shape whose number of elements does not fit in memory.
    #[error("variable {name:?}: the shape {shape:?} has more elements than memory can hold")]
    Shape {
        /// The variable.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A variable of another optimizer.
    #[error("there is no variable number {index}; {registered} are registered")]
    UnknownVariable {
        /// The variable's number.
        index: usize,
        /// How many there are.
        registered: usize,
    },
    /// A variable that a call names twice.
    #[error("variable {name:?} is in the call twice")]
    RepeatedVariable {
        /// The variable.
        name: String,
    },
    /// A tensor of another length than the variable's shape has.
    #[error("variable {name:?}: the {tensor} has {found} elements, and its shape has {expected}")]
    Length {
        /// The variable.
        name: String,
        /// Which tensor.
        tensor: &'static str,
        /// Its length.
        found: usize,
        /// The number of elements of the variable's shape.
        expected: usize,
    },
    /// A parameter of another format than was registered.
    #[error("variable {name:?}: the parameter is {found}, and was registered as {expected}")]
    Dtype {
        /// The variable.
        name: String,
        /// The format of the call.
        found: lion_kernels::Dtype,
        /// The format of the registration.
        expected: lion_kernels::Dtype,
    },
}
