//! [`ErrorKind`]: errors sorted by who must react, with stable codes.

use super::Error;

/// Rows: documentation, kind, name, code.
macro_rules! kinds {
    ($($(#[$doc:meta])+ $kind:ident, $name:literal, $code:literal;)+) => {
        /// The kind of an error. A kind keeps its code and its name in all versions: the C library returns the code, and
        /// Python has an exception for each kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])+ $kind,)+
        }

        impl ErrorKind {
            /// Every kind, by code.
            pub const ALL: &'static [Self] = &[$(ErrorKind::$kind),+];

            /// Returns the number of the kind, from 1. 0 means no error.
            pub fn code(self) -> u8 {
                match self { $(ErrorKind::$kind => $code,)+ }
            }

            /// Returns the name of the kind.
            pub fn name(self) -> &'static str {
                match self { $(ErrorKind::$kind => $name,)+ }
            }
        }
    };
}

kinds! {
    /// An option or an argument is outside its range or of another type, or options exclude each other.
    Value, "value", 1;
    /// A name or an id does not exist, or a name exists already.
    Name, "name", 2;
    /// Text or a file is not valid.
    Format, "format", 3;
    /// A tensor's shape, length or dtype does not match its variable's.
    Tensor, "tensor", 4;
    /// A step lacks a variable, has one twice, or has one that it must not have.
    Step, "step", 5;
    /// A checkpoint does not match the optimizer.
    State, "state", 6;
    /// The system refused to read or write a file.
    Io, "io", 7;
    /// The system refused memory.
    Memory, "memory", 8;
    /// The request is valid, but not possible: on this machine, in this format, or after the optimizer was built.
    Unsupported, "unsupported", 9;
}

impl Error {
    /// Returns the kind of the error.
    ///
    /// ```
    /// use lion::{ErrorKind, Lion};
    ///
    /// let error = Lion::builder().beta_1(2.0).build().unwrap_err();
    /// assert_eq!((error.kind(), error.code()), (ErrorKind::Value, 1));
    /// ```
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Argument { .. } | Error::SeveralClips { .. } | Error::Pattern { .. } => ErrorKind::Value,
            Error::UnknownOption { .. }
            | Error::UnknownVariable { .. }
            | Error::UnknownGroup { .. }
            | Error::DuplicateName { .. } => ErrorKind::Name,
            Error::UnknownKey { .. }
            | Error::MissingKey { .. }
            | Error::Custom { .. }
            | Error::NoOptimizer { .. }
            | Error::Json { .. }
            | Error::File { .. } => ErrorKind::Format,
            Error::Shape { .. }
            | Error::ShapeTooLarge { .. }
            | Error::Length { .. }
            | Error::ParameterDtype { .. }
            | Error::MomentumDtype { .. }
            | Error::NotBf16 { .. }
            | Error::Dtype { .. } => ErrorKind::Tensor,
            Error::NoGradients
            | Error::OnlyOverwrites
            | Error::UnexpectedGradient { .. }
            | Error::RepeatedVariable { .. }
            | Error::RepeatedElements { .. }
            | Error::MissingVariable { .. }
            | Error::MissingElements { .. }
            | Error::Range { .. }
            | Error::NeedsWhole { .. }
            | Error::CutBlock { .. }
            | Error::Statistics { .. }
            | Error::OpenStep { .. }
            | Error::NoStep
            | Error::NoMomentum { .. } => ErrorKind::Step,
            Error::State { .. } => ErrorKind::State,
            Error::Io { .. } => ErrorKind::Io,
            Error::OutOfMemory { .. } => ErrorKind::Memory,
            Error::NotSerializable { .. } | Error::NotOfKeras { .. } | Error::FixedOption { .. } => {
                ErrorKind::Unsupported
            }
            Error::Kernels(reason) | Error::Tensor { reason, .. } => of_kernels(reason),
        }
    }

    /// Returns the code of the [`kind`](Self::kind).
    pub fn code(&self) -> u8 {
        self.kind().code()
    }
}

fn of_kernels(error: &lion_kernels::Error) -> ErrorKind {
    use lion_kernels::Error as Kernels;
    match error {
        Kernels::Hyperparameter { .. } => ErrorKind::Value,
        Kernels::UnknownBackend { .. } | Kernels::UnknownDtype { .. } => ErrorKind::Name,
        Kernels::UnavailableBackend { .. } => ErrorKind::Unsupported,
        Kernels::OutOfMemory { .. } => ErrorKind::Memory,
        // The other errors are about lengths, ranges and dtypes of tensors.
        _ => ErrorKind::Tensor,
    }
}
