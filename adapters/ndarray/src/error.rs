/// An adapter error. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An array of another shape than the variable's.
    #[error("variable {name:?}: the {tensor} has the shape {found:?}, and the variable has {expected:?}")]
    Shape {
        /// The variable's name.
        name: String,
        /// The array's role, such as parameter or gradient.
        tensor: &'static str,
        /// The array's shape.
        found: Vec<usize>,
        /// The variable's shape.
        expected: Vec<usize>,
    },
    /// A parameter of another dtype than the variable's.
    #[error("variable {name:?}: the parameter is {found}, and was registered as {expected}")]
    Dtype {
        /// The variable's name.
        name: String,
        /// The array's dtype.
        found: lion::Dtype,
        /// The dtype at registration.
        expected: lion::Dtype,
    },
    /// An error of the core's optimizer.
    #[error(transparent)]
    Lion(#[from] lion::Error),
}
