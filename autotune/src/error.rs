use std::path::PathBuf;

/// An error of a profile, of a request to the tuner, or of a measurement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{}: cannot {action}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The failed action, such as `read`.
        action: &'static str,
        /// The reason.
        reason: std::io::Error,
    },
    /// A file is not a profile: not UTF-8, not TOML, or not in the schema.
    #[error("not a profile: {reason}")]
    Syntax {
        /// The place and what was expected there, in one line.
        reason: String,
    },
    /// A file is not the log of a tuning.
    #[error("not a tuning log: {reason}")]
    Log {
        /// What was expected, in one line.
        reason: String,
    },
    /// A profile has a value that no tuner writes.
    #[error("entry {entry}: {key} is {found}; expected {expected}")]
    Value {
        /// The entry's number, from 1.
        entry: usize,
        /// The key.
        key: &'static str,
        /// The value, shortened.
        found: String,
        /// The allowed values.
        expected: String,
    },
    /// A profile is for other hardware or other kernels.
    #[error("does not fit: {what} is {found} in the profile and {expected} here")]
    Mismatch {
        /// The property that differs.
        what: &'static str,
        /// Its value in the profile.
        found: String,
        /// Its value on this machine or in this library.
        expected: String,
    },
    /// A name is unknown.
    #[error("{what} {name:?} does not exist; expected one of {known}")]
    Unknown {
        /// The kind of name.
        what: &'static str,
        /// The name.
        name: String,
        /// The known names.
        known: String,
    },
    /// The result of a candidate differs from the reference. This is a bug, which no profile may hide.
    #[error("{case}: the result of {plan} differs from the reference")]
    WrongBits {
        /// The case.
        case: String,
        /// The plan.
        plan: String,
    },
    /// The user has no directory for settings.
    #[error("no home: this user has no directory for settings; name a file")]
    NoHome,
    /// A kernel refused its work.
    #[error(transparent)]
    Kernels(#[from] lion_kernels::Error),
}
