//! [`Error`]: a collective call that failed, on this rank or on another.

use crate::CommunicationError;

/// A collective call failed. Unless the message says otherwise, nothing has changed on any rank.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the optimizer on this rank.
    #[error(transparent)]
    Lion(#[from] lion::Error),
    /// An error on another rank.
    #[error("rank {rank}: {reason}")]
    Elsewhere {
        /// The lowest rank that has an error.
        rank: usize,
        /// Its error.
        reason: String,
    },
    /// The ranks disagree about the call.
    #[error("{field} of rank {rank}: {found}; expected {expected}, as on rank 0")]
    Disagreement {
        /// The field that differs.
        field: &'static str,
        /// The first rank that differs from rank 0.
        rank: usize,
        /// Its value there.
        found: String,
        /// Its value on rank 0.
        expected: String,
    },
    /// A setting is outside its range.
    #[error("{name} is {value}; expected {allowed}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// The values that are allowed.
        allowed: String,
    },
    /// The connection failed before anything was written. The optimizer can no longer be used.
    #[error("the ranks cannot communicate: {0}")]
    Communication(#[from] CommunicationError),
    /// An error after ranks had begun to write, so they may differ now. The job was aborted.
    #[error("aborted, as ranks may differ: {reason}")]
    Aborted {
        /// The error.
        reason: String,
    },
    /// An earlier call ended the connection or the job.
    #[error("an earlier call failed for good: {reason}")]
    Broken {
        /// The error of that call.
        reason: String,
    },
}

impl From<lion_kernels::Error> for Error {
    fn from(error: lion_kernels::Error) -> Self {
        Error::Lion(error.into())
    }
}
