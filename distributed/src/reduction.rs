//! The reduction: the mean of the gradients of all leaves, on the ranks that own the elements.
//!
//! Each rank sums the subtrees that its leaves form, and sends the sums to the owners of the elements. The owner adds the
//! sums of all ranks along the rest of the tree, and divides. Bucket `k` is part `k` of every shard. So all ranks send and
//! receive about the same number of bytes in each exchange, and sums in transit take the memory of one bucket.
//!
//! The means of a rank's shard are contiguous, in the order of its segments. Variables without a gradient have none.

use std::ops::Range;

use lion::{TensorBuf, TensorMut, TensorRef};
use lion_kernels::{Backend, Dtype, STATISTICS_BLOCK, SumTree};

use crate::layout::Row;
use crate::{Communicator, Error, Layout, Settings};

#[derive(Debug)]
pub(crate) struct Reduction {
    backend: Backend,
    wire: Dtype,
    /// The number of subtrees of each rank.
    subtrees: Vec<usize>,
    /// This rank's subtrees, as ranges of its leaves.
    own: Vec<(Range<usize>, SumTree)>,
    /// The tree whose sources are the subtrees of all ranks.
    tree: SumTree,
    /// Elements of a shard in one exchange.
    bucket: usize,
    send: TensorBuf,
    receive: TensorBuf,
    mean: TensorBuf,
}

impl Reduction {
    /// Requires settings that have been checked.
    pub(crate) fn new(
        settings: &Settings,
        rank: usize,
        ranks: usize,
        backend: Backend,
    ) -> Result<Self, Error> {
        let each = settings.leaves / ranks;
        let of = |rank: usize| SumTree::subtrees(settings.leaves, rank * each..(rank + 1) * each);
        let lengths: Vec<usize> = (0..ranks).flat_map(of).map(|subtree| subtree.len()).collect();
        let subtrees: Vec<usize> = (0..ranks).map(|rank| of(rank).len()).collect();
        let own = of(rank).into_iter().map(|subtree| {
            let tree = SumTree::new(subtree.len())?;
            Ok::<_, Error>((subtree.start - rank * each..subtree.end - rank * each, tree))
        });
        // Sums that a rank receives for an element of its shard, or sends for one element of each shard.
        let most = subtrees.iter().map(|count| count * ranks).fold(lengths.len(), usize::max);
        let bytes = most * settings.wire.dtype().size();
        let bucket =
            (settings.bucket_bytes / bytes / STATISTICS_BLOCK * STATISTICS_BLOCK).max(STATISTICS_BLOCK);
        if bucket.saturating_mul(bytes) > Settings::LARGEST_BUCKET {
            let allowed = "so few that a block of each fits a bucket below 1 GiB".into();
            return Err(Error::Setting { name: "the number of ranks", value: ranks.to_string(), allowed });
        }
        let empty = |dtype| TensorBuf::zeroed(dtype, 0);
        let wire = settings.wire.dtype();
        Ok(Reduction {
            backend,
            wire,
            subtrees,
            own: own.collect::<Result<_, _>>()?,
            tree: SumTree::from_subtrees(&lengths)?,
            bucket,
            send: empty(wire)?,
            receive: empty(wire)?,
            mean: empty(Dtype::F32)?,
        })
    }

    /// Allocates, so that [`run`](Self::run) cannot run out of memory. `with_gradient` is 1 for each variable that has a
    /// gradient, else 0.
    pub(crate) fn reserve(
        &mut self,
        layout: &Layout,
        rank: usize,
        with_gradient: &[usize],
    ) -> Result<(), Error> {
        let left = |rank: usize| Row::new(layout.shard(rank), with_gradient).left();
        let sent: usize = (0..layout.ranks()).map(|rank| left(rank).min(self.bucket)).sum();
        let (own, bucket) = (left(rank), self.bucket);
        for (buffer, dtype, wanted) in [
            (&mut self.send, self.wire, sent * self.own.len()),
            (&mut self.receive, self.wire, own.min(bucket) * self.tree.sources()),
            (&mut self.mean, Dtype::F32, own),
        ] {
            if buffer.len() < wanted {
                // Frees the old buffer first, so that both need not fit.
                *buffer = TensorBuf::zeroed(dtype, 0)?;
                *buffer = TensorBuf::zeroed(dtype, wanted)?;
            }
        }
        Ok(())
    }

    /// Reduces the gradients of this rank's leaves, by variable. They have been checked, and [`reserve`](Self::reserve)
    /// has allocated.
    pub(crate) fn run(
        &mut self,
        communicator: &mut impl Communicator,
        layout: &Layout,
        with_gradient: &[usize],
        leaves: &[&[TensorRef<'_>]],
    ) -> Result<(), Error> {
        let (rank, size) = (communicator.rank(), self.wire.size());
        let mut rows: Vec<_> =
            (0..layout.ranks()).map(|rank| Row::new(layout.shard(rank), with_gradient)).collect();
        let mut done = 0;
        while rows.iter().any(|row| row.left() > 0) {
            let mut send_counts = Vec::with_capacity(rows.len());
            let (mut sent, mut received) = (0, 0);
            for (owner, row) in rows.iter_mut().enumerate() {
                let pieces = row.take(self.bucket);
                let elements: usize = pieces.iter().map(|piece| piece.range.len()).sum();
                for (subtree, tree) in &self.own {
                    for piece in &pieces {
                        let sources =
                            leaves.get(piece.variable).and_then(|leaves| leaves.get(subtree.clone()));
                        let sources = sources.unwrap_or_default().iter();
                        let sources: Vec<_> =
                            sources.map(|leaf| leaf.range(piece.range.clone())).collect::<Result<_, _>>()?;
                        let next = sent + piece.range.len();
                        tree.sum(self.backend, &sources, part(&mut self.send, sent..next)?)?;
                        sent = next;
                    }
                }
                send_counts.push(elements * self.own.len() * size);
                if owner == rank {
                    received = elements;
                }
            }
            let receive_counts: Vec<_> = self.subtrees.iter().map(|count| count * received * size).collect();
            let mut receive = part(&mut self.receive, 0..received * self.tree.sources())?;
            communicator.all_to_all(
                bytes(&self.send, sent * size),
                &send_counts,
                receive.as_bytes_mut(0).unwrap_or_default(),
                &receive_counts,
            )?;
            let sums = (0..self.tree.sources())
                .map(|source| self.receive.to_ref().range(source * received..(source + 1) * received));
            let sums: Vec<_> = sums.collect::<Result<_, _>>()?;
            self.tree.mean(self.backend, &sums, part(&mut self.mean, done..done + received)?)?;
            done += received;
        }
        Ok(())
    }

    /// The means of this rank's elements.
    pub(crate) fn mean(&self) -> TensorRef<'_> {
        self.mean.to_ref()
    }
}

fn part(buffer: &mut TensorBuf, range: Range<usize>) -> Result<TensorMut<'_>, lion_kernels::Error> {
    buffer.to_mut().range(range)
}

/// The first `count` bytes of a buffer of one stream, which is at least as long.
fn bytes(buffer: &TensorBuf, count: usize) -> &[u8] {
    buffer.to_ref().as_bytes(0).and_then(|bytes| bytes.get(..count)).unwrap_or_default()
}
