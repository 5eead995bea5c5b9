//! Gathering what each rank has, in buckets that the transport can count.

use crate::{CommunicationError, Communicator};

/// What is gathered: a row of bytes of each rank.
pub(crate) trait Gathered {
    /// Writes the next bytes of this rank.
    fn fill(&mut self, to: &mut [u8]);

    /// Takes the next bytes of another rank.
    fn take(&mut self, rank: usize, bytes: &[u8]);
}

/// Sends this rank's bytes to all, and takes those of the others. `lengths` are the bytes of each rank.
///
/// # Errors
/// Those of the communicator.
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
    let each = (bucket_bytes / size).max(MIN_PIECE);
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

/// The least that a rank sends at a time if it has more: below it, latency is all that counts.
const MIN_PIECE: usize = 4096;
