/// Why a call did nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An array of another shape than the variable.
    #[error("variable {name:?}: the {tensor} has the shape {found:?}, and the variable has {expected:?}")]
    Shape {
        /// The variable.
        name: String,
        /// Parameter or gradient.
        tensor: &'static str,
        /// The array's shape.
        found: Vec<usize>,
        /// The variable's shape.
        expected: Vec<usize>,
    },
    /// A parameter of another format than the variable.
    #[error("variable {name:?}: the parameter is {found}, and was registered as {expected}")]
    Dtype {
        /// The variable.
        name: String,
        /// The array's format.
        found: lion::Dtype,
        /// The format of the registration.
        expected: lion::Dtype,
    },
    /// From the optimizer.
    #[error(transparent)]
    Lion(#[from] lion::Error),
}
