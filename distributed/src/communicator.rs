//! [`Communicator`]: the collective operations that a sharded optimizer needs of whatever connects its ranks.

/// Ranks that exchange bytes.
///
/// Each operation but [`rank`](Self::rank), [`size`](Self::size) and [`abort`](Self::abort) is collective: it returns on a
/// rank when the ranks that it needs have called it, all call the same operations in the same order, and lengths that
/// two ranks name of the same bytes are equal. The optimizer upholds that, and makes no call longer than
/// [`Settings::bucket_bytes`](crate::Settings::bucket_bytes) says. An operation that fails leaves the connection unusable.
///
/// Bytes are those of numbers in the machine's own order: all ranks run on machines of one byte order.
pub trait Communicator {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// Sends each rank its part of `send`, and receives one from each: `counts` are the bytes of the parts, by rank.
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

    /// Sends `send` to every rank, and receives what each sends, in the order of the ranks: `counts` are their bytes.
    ///
    /// # Errors
    /// A connection that fails.
    fn all_gather(
        &mut self,
        send: &[u8],
        receive: &mut [u8],
        counts: &[usize],
    ) -> Result<(), CommunicationError>;

    /// Makes each number the least of those that the ranks have in its place.
    ///
    /// # Errors
    /// A connection that fails.
    fn all_reduce_min(&mut self, numbers: &mut [u64]) -> Result<(), CommunicationError>;

    /// Makes the bytes those of one rank.
    ///
    /// # Errors
    /// A connection that fails.
    fn broadcast(&mut self, from: usize, bytes: &mut [u8]) -> Result<(), CommunicationError>;

    /// Ends the other ranks: those that wait for this one return with an error or die, and none waits for ever. May
    /// end this process too.
    fn abort(&mut self, reason: &str);
}

/// A communicator that its owner takes back after the optimizer.
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
