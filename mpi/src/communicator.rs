//! [`MpiCommunicator`]: the collective operations on MPI's blocking calls.
//!
//! MPI's default handler ends the job on an error of MPI itself. So the only error here is a length that MPI cannot count
//! in 32 bits.

use std::fmt;

use lion_distributed::{CommunicationError, Communicator};
use mpi::Count;
use mpi::collective::SystemOperation;
use mpi::datatype::{Partition, PartitionMut};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _, Root as _};

/// The ranks of an MPI communicator. It uses a duplicate, so its messages do not mix with the program's.
pub struct MpiCommunicator {
    ranks: SimpleCommunicator,
    rank: usize,
    size: usize,
}

impl MpiCommunicator {
    /// Duplicates a communicator. Collective.
    pub fn new(communicator: &impl mpi::traits::Communicator) -> Self {
        let ranks = communicator.duplicate();
        let number = |count| usize::try_from(count).unwrap_or_default();
        let (rank, size) = (number(ranks.rank()), number(ranks.size()));
        MpiCommunicator { ranks, rank, size }
    }
}

impl fmt::Debug for MpiCommunicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MpiCommunicator(rank {} of {})", self.rank, self.size)
    }
}

/// The lengths and starts of the ranks' bytes, as MPI's integers.
fn counted(counts: &[usize], len: usize) -> Result<(Vec<Count>, Vec<Count>), CommunicationError> {
    let too_many = || {
        CommunicationError::new(format!("{len} bytes are more than MPI counts, or not those of the parts"))
    };
    let (mut of_mpi, mut starts) = (Vec::with_capacity(counts.len()), Vec::with_capacity(counts.len()));
    let mut end: usize = 0;
    for &count in counts {
        starts.push(Count::try_from(end).map_err(|_| too_many())?);
        of_mpi.push(Count::try_from(count).map_err(|_| too_many())?);
        end = end.checked_add(count).ok_or_else(too_many)?;
    }
    // MPI and its binding compute with the sum of the last two.
    if end == len && Count::try_from(end).is_ok() { Ok((of_mpi, starts)) } else { Err(too_many()) }
}

impl Communicator for MpiCommunicator {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_to_all(
        &mut self,
        send: &[u8],
        send_counts: &[usize],
        receive: &mut [u8],
        receive_counts: &[usize],
    ) -> Result<(), CommunicationError> {
        let (send_counts, send_starts) = counted(send_counts, send.len())?;
        let (receive_counts, receive_starts) = counted(receive_counts, receive.len())?;
        let send = Partition::new(send, send_counts, send_starts);
        let mut receive = PartitionMut::new(receive, receive_counts, receive_starts);
        self.ranks.all_to_all_varcount_into(&send, &mut receive);
        Ok(())
    }

    fn all_gather(
        &mut self,
        send: &[u8],
        receive: &mut [u8],
        counts: &[usize],
    ) -> Result<(), CommunicationError> {
        let (counts, starts) = counted(counts, receive.len())?;
        let mut receive = PartitionMut::new(receive, counts, starts);
        self.ranks.all_gather_varcount_into(send, &mut receive);
        Ok(())
    }

    fn all_reduce_min(&mut self, numbers: &mut [u64]) -> Result<(), CommunicationError> {
        let own = numbers.to_vec();
        self.ranks.all_reduce_into(&own[..], numbers, SystemOperation::min());
        Ok(())
    }

    fn broadcast(&mut self, from: usize, bytes: &mut [u8]) -> Result<(), CommunicationError> {
        if from >= self.size {
            return Err(CommunicationError::new(format!(
                "rank {from} does not exist; {} ranks do",
                self.size
            )));
        }
        counted(&[bytes.len()], bytes.len())?;
        // `from` is below the size, which fits MPI's integer.
        let from = mpi::Rank::try_from(from).unwrap_or_default();
        self.ranks.process_at_rank(from).broadcast_into(bytes);
        Ok(())
    }

    /// Ends all processes of the job, this one too.
    fn abort(&mut self, reason: &str) {
        crate::frame::say(&format!("rank {} ends the job: {reason}", self.rank));
        self.ranks.abort(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mpi_cannot_count_is_refused() {
        assert_eq!(counted(&[3, 0, 4], 7), Ok((vec![3, 0, 4], vec![0, 3, 3])));
        let half = 1 << 30;
        for (counts, len) in
            [(&[3, 4][..], 8), (&[half, half], 2 * half), (&[usize::MAX, 2], 1), (&[1 << 31], 1 << 31)]
        {
            assert!(counted(counts, len).is_err(), "{counts:?}");
        }
    }
}
