//! Gathers bytes of all ranks, in buckets whose length the transport can count.

use crate::codes::GROUP_BYTES;
use crate::{CommunicationError, Communicator};

/// The source and the target of a gather: a row of bytes from each rank.
pub(crate) trait Gathered {
    /// Writes this rank's next bytes to `to`.
    fn fill(&mut self, to: &mut [u8]);

    /// Receives the next bytes of another rank.
    fn take(&mut self, rank: usize, bytes: &[u8]);
}

/// Sends this rank's bytes to all ranks, and receives theirs. `lengths` are the bytes of each rank.
///
/// # Errors
/// The communicator's.
pub(crate) fn gather(
    communicator: &mut impl Communicator,
    bucket_bytes: usize,
    lengths: &[usize],
    gathered: &mut impl Gathered,
) -> Result<(), CommunicationError> {
    let (own, size) = (communicator.rank(), communicator.size());
    if size < 2 {
        return Ok(());
    }
    let each = (bucket_bytes / size / PIECE_UNIT * PIECE_UNIT).max(MIN_PIECE);
    let longest = lengths.iter().copied().max().unwrap_or_default();
    let (mut send, mut receive) = (Vec::new(), Vec::new());
    let mut start = 0;
    while start < longest {
        let counts: Vec<_> = lengths.iter().map(|len| len.saturating_sub(start).min(each)).collect();
        send.resize(counts.get(own).copied().unwrap_or_default(), 0);
        receive.resize(counts.iter().sum(), 0);
        gathered.fill(&mut send);
        communicator.all_gather(&send, &mut receive, &counts)?;
        let mut rest = &receive[..];
        for (rank, &count) in counts.iter().enumerate() {
            let (piece, after) = rest.split_at(count);
            rest = after;
            if rank != own && count > 0 {
                gathered.take(rank, piece);
            }
        }
        start += each;
    }
    Ok(())
}

/// The minimum that a rank sends at a time if it has more. Smaller messages are bound by latency.
const MIN_PIECE: usize = 4096;
/// Each message is a multiple of this long, so that no group of directions is cut.
const PIECE_UNIT: usize = 64;
const _: () = assert!(PIECE_UNIT.is_multiple_of(GROUP_BYTES) && MIN_PIECE.is_multiple_of(PIECE_UNIT));
