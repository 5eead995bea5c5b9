use std::path::PathBuf;

/// What is wrong with a profile, with what the tuner was asked for, or with the machine while it measures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("{}: cannot {action}: {reason}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What was tried, such as `read`.
        action: &'static str,
        /// Why it failed.
        reason: std::io::Error,
    },
    /// A profile that is none: not UTF-8, not TOML, or not in the schema.
    #[error("is no profile: {reason}")]
    Syntax {
        /// Where, and what was expected there, in one line.
        reason: String,
    },
    /// A record of a tuning that is none.
    #[error("is no record of a tuning: {reason}")]
    Record {
        /// What was expected, in one line.
        reason: String,
    },
    /// A value in a profile that no tuner writes.
    #[error("entry {entry}: {key} is {found}, and must be {expected}")]
    Value {
        /// The entry's number, from 1.
        entry: usize,
        /// Which key.
        key: &'static str,
        /// What was found, shortened.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A profile of other hardware or other kernels.
    #[error("does not fit: {what} is {found} there and {expected} here")]
    Mismatch {
        /// What differs.
        what: &'static str,
        /// What the profile says.
        found: String,
        /// What this machine or library has.
        expected: String,
    },
    /// A name that is not known.
    #[error("there is no {what} {name:?}; known: {known}")]
    Unknown {
        /// What kind of thing.
        what: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A candidate whose result differs from the reference: a bug, which no profile may hide.
    #[error("{case}: {plan} does not have the reference's bits")]
    WrongBits {
        /// The work.
        case: String,
        /// The plan.
        plan: String,
    },
    /// No directory for settings can be found.
    #[error("no home: there is no directory for settings; name a file")]
    NoHome,
    /// A kernel that refused its work.
    #[error(transparent)]
    Kernels(#[from] lion_kernels::Error),
}
