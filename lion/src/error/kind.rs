//! [`ErrorKind`]: errors sorted by who must react, with codes that stay.

use super::Error;

/// Rows: documentation, kind, name, code.
macro_rules! kinds {
    ($($(#[$doc:meta])+ $kind:ident, $name:literal, $code:literal;)+) => {
        /// What an error is about. A kind keeps its code and its name in all versions: the C library returns the code,
        /// and Python has an exception for each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])+ $kind,)+
        }

        impl ErrorKind {
            /// Every kind, by code.
            pub const ALL: &'static [Self] = &[$(ErrorKind::$kind),+];

            /// The number of the kind, from 1. 0 is no error.
            pub fn code(self) -> u8 {
                match self { $(ErrorKind::$kind => $code,)+ }
            }

            /// The name of the kind.
            pub fn name(self) -> &'static str {
                match self { $(ErrorKind::$kind => $name,)+ }
            }
        }
    };
}

kinds! {
    /// An option or an argument outside its range or of another type, or options that exclude each other.
    Value, "value", 1;
    /// The name or the number of something that does not exist, or a name that exists already.
    Name, "name", 2;
    /// Text or a file that is not what it must be.
    Format, "format", 3;
    /// A tensor of another shape, length or dtype than its variable's.
    Tensor, "tensor", 4;
    /// Variables that a call must give, must not give, or gives twice.
    Step, "step", 5;
    /// A checkpoint of another optimizer.
    State, "state", 6;
    /// A file that the system does not let be read or written.
    Io, "io", 7;
    /// Memory that the system does not give.
    Memory, "memory", 8;
    /// What is right, and cannot be done here: on this machine, in this format, after the optimizer was built.
    Unsupported, "unsupported", 9;
}

impl Error {
    /// What the error is about.
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

    /// The code of the [`kind`](Self::kind).
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
        // The rest is about lengths, ranges and formats of tensors.
        _ => ErrorKind::Tensor,
    }
}
