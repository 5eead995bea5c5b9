//! [`Error`]: a collective call that failed, on this rank or on another.

use crate::CommunicationError;

/// A collective call failed. If the message does not say otherwise, nothing has changed on any rank.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the optimizer on this rank.
    #[error(transparent)]
    Lion(#[from] lion::Error),
    /// An error on another rank.
    #[error("rank {rank}: {reason}")]
    Elsewhere {
        /// The rank, the lowest of those that have an error.
        rank: usize,
        /// Its error.
        reason: String,
    },
    /// Ranks that do not do the same.
    #[error("{field} of rank {rank}: {found}; expected {expected}, as on rank 0")]
    Disagreement {
        /// What differs.
        field: &'static str,
        /// The first rank that differs from rank 0.
        rank: usize,
        /// What it has.
        found: String,
        /// What rank 0 has.
        expected: String,
    },
    /// A setting outside its range.
    #[error("{name} is {value}; expected {allowed}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// What was found.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A connection that failed before anything was written. The optimizer can no longer be used.
    #[error("the ranks cannot communicate: {0}")]
    Communication(#[from] CommunicationError),
    /// An error after ranks had begun to write: they may differ now. The job was aborted.
    #[error("aborted, as ranks may differ: {reason}")]
    Aborted {
        /// The error.
        reason: String,
    },
    /// A call after one that ended the connection or the job.
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
