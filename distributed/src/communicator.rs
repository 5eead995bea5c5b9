//! [`Communicator`]: the collective operations by which the ranks of a sharded optimizer exchange bytes.

/// Ranks that exchange bytes.
///
/// All operations except [`rank`](Self::rank), [`size`](Self::size) and [`abort`](Self::abort) are collective: all ranks
/// call the same operations in the same order, and a sender and its receiver name the same lengths. The optimizer upholds
/// that, and no call is longer than [`Settings::bucket_bytes`](crate::Settings::bucket_bytes) allows. An operation that
/// fails leaves the connection unusable.
///
/// Numbers travel in the machine's byte order, so all ranks must run on machines of one byte order.
pub trait Communicator {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// Sends each rank its part of `send`, and receives a part from each. The counts are the bytes of the parts, by rank.
    ///
    /// # Errors
    /// A connection that fails.
    fn all_to_all(
        &mut self,
        send: &[u8],
        send_counts: &[usize],
        receive: &mut [u8],
        receive_counts: &[usize],
    ) -> Result<(), CommunicationError>;

    /// Sends `send` to every rank, and receives the bytes of each, in the order of the ranks. `counts` are their lengths.
    ///
    /// # Errors
    /// A connection that fails.
    fn all_gather(
        &mut self,
        send: &[u8],
        receive: &mut [u8],
        counts: &[usize],
    ) -> Result<(), CommunicationError>;

    /// Replaces each number by the smallest that any rank has at its index.
    ///
    /// # Errors
    /// A connection that fails.
    fn all_reduce_min(&mut self, numbers: &mut [u64]) -> Result<(), CommunicationError>;

    /// Overwrites `bytes` with those of one rank.
    ///
    /// # Errors
    /// A connection that fails.
    fn broadcast(&mut self, from: usize, bytes: &mut [u8]) -> Result<(), CommunicationError>;

    /// Ends the other ranks: those that wait for this one return with an error or die, and none waits forever. May end this
    /// process too.
    fn abort(&mut self, reason: &str);
}

/// A borrowed communicator, which its owner uses again after the optimizer.
impl<C: Communicator + ?Sized> Communicator for &mut C {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn size(&self) -> usize {
        (**self).size()
    }

    fn all_to_all(
        &mut self,
        send: &[u8],
        send_counts: &[usize],
        receive: &mut [u8],
        receive_counts: &[usize],
    ) -> Result<(), CommunicationError> {
        (**self).all_to_all(send, send_counts, receive, receive_counts)
    }

    fn all_gather(
        &mut self,
        send: &[u8],
        receive: &mut [u8],
        counts: &[usize],
    ) -> Result<(), CommunicationError> {
        (**self).all_gather(send, receive, counts)
    }

    fn all_reduce_min(&mut self, numbers: &mut [u64]) -> Result<(), CommunicationError> {
        (**self).all_reduce_min(numbers)
    }

    fn broadcast(&mut self, from: usize, bytes: &mut [u8]) -> Result<(), CommunicationError> {
        (**self).broadcast(from, bytes)
    }

    fn abort(&mut self, reason: &str) {
        (**self).abort(reason);
    }
}

/// A collective operation that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CommunicationError(String);

impl CommunicationError {
    /// An error with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        CommunicationError(reason.into())
    }
}
