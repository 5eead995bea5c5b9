//! Sums of tensors with a fixed order: the gradients of several micro-batches, wherever each was computed.
//!
//! A sum in f32 depends on its order, so the order is fixed: the tensors are the leaves of one binary tree, in which a
//! node of `n` leaves has the largest power of two below `n` of them on its left. A consecutive range of leaves is a few
//! whole subtrees of it ([`SumTree::subtrees`]), so each may be summed elsewhere and the sums be added here: the bits are
//! those of one sum over all leaves, whoever summed which.
//!
//! One pass over memory: for a tile of elements the tensors are read in order, and partial sums wait on a stack in the
//! first-level cache. The caller's thread does all.

use alloc::vec::Vec;
use core::ops::Range;

use crate::column::{Column, TensorMut, TensorRef};
use crate::dispatch::Backend;
use crate::engine::View;
use crate::engine::sum::{Level, Sum};
use crate::error::{Error, same_length};
use crate::format::Dtype;
use crate::pass::Columns;
use crate::role::Role;

/// The order in which the tensors of a sum are added.
///
/// ```
/// use lion_kernels::{Backend, SumTree, TensorRef};
///
/// let leaves = [[1.0_f32, 8.0], [2.0, 4.0], [6.0, 0.0]];
/// let sources = leaves.each_ref().map(TensorRef::from);
/// let mut mean = [0.0_f32; 2];
/// SumTree::new(3)?.mean(Backend::best(), &sources, &mut mean)?;
/// assert_eq!(mean, [3.0, 4.0]);
///
/// // The same, where somebody else has summed the first two.
/// let (first, mut again) = ([3.0_f32, 12.0], [0.0_f32; 2]);
/// let parts = [TensorRef::from(&first), TensorRef::from(&leaves[2])];
/// SumTree::of_subtrees(&[2, 1])?.mean(Backend::best(), &parts, &mut again)?;
/// assert_eq!(again, mean);
/// # Ok::<(), lion_kernels::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumTree {
    leaves: usize,
    /// How often the last two sums are added when the source of that number has been read.
    merges: Vec<u8>,
    /// The most sums that wait at a time.
    levels: usize,
}

impl SumTree {
    /// The most leaves of a tree: an f32 holds every number up to it, so a mean divides by the number itself.
    pub const MAX_LEAVES: usize = 1 << 24;

    /// The tree over this many leaves, each of which is a source.
    ///
    /// # Errors
    /// [`Error::Leaves`] for none, or more than [`MAX_LEAVES`](Self::MAX_LEAVES).
    pub fn new(leaves: usize) -> Result<Self, Error> {
        Self::build(leaves, leaves, |_| 1)
    }

    /// The tree whose sources are sums of consecutive leaves, as many as the numbers say.
    ///
    /// # Errors
    /// [`Error::Leaves`] for none, or more than [`MAX_LEAVES`](Self::MAX_LEAVES); [`Error::Subtrees`] if some do not make
    /// up a subtree.
    pub fn of_subtrees(leaves: &[usize]) -> Result<Self, Error> {
        let all = leaves.iter().copied().fold(0, usize::saturating_add);
        Self::build(all, leaves.len(), |index| leaves.get(index).copied().unwrap_or_default())
    }

    fn build(leaves: usize, sources: usize, of: impl Fn(usize) -> usize) -> Result<Self, Error> {
        if !(1..=Self::MAX_LEAVES).contains(&leaves) {
            return Err(Error::Leaves { found: leaves });
        }
        let mut tree = SumTree { leaves, merges: Vec::with_capacity(sources), levels: 0 };
        // The subtrees that wait to be added.
        let mut waiting: Vec<Range<usize>> = Vec::new();
        let mut end = 0;
        for index in 0..sources {
            let start = end;
            end += of(index);
            waiting.push(start..end);
            tree.levels = tree.levels.max(waiting.len());
            let mut merges = 0;
            while let [.., left, right] = &waiting[..] {
                if !are_siblings(left, right, leaves) {
                    break;
                }
                let node = left.start..right.end;
                waiting.truncate(waiting.len() - 2);
                waiting.push(node);
                merges += 1;
            }
            tree.merges.push(merges);
        }
        if waiting.len() == 1 { Ok(tree) } else { Err(Error::Subtrees { sources, leaves }) }
    }

    /// The fewest subtrees of the tree over `leaves` leaves that have the leaves of a range, in order.
    pub fn subtrees(leaves: usize, range: Range<usize>) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut open = alloc::vec![0..leaves];
        while let Some(node) = open.pop() {
            if node.end <= range.start || range.end <= node.start {
                continue;
            }
            if range.start <= node.start && node.end <= range.end {
                found.push(node);
                continue;
            }
            // A node with a part of the range and not all of it has two leaves at least.
            let middle = node.start + node.len().next_power_of_two() / 2;
            open.push(middle..node.end);
            open.push(node.start..middle);
        }
        found
    }

    /// The number of leaves.
    pub fn leaves(&self) -> usize {
        self.leaves
    }

    /// The number of sources.
    pub fn sources(&self) -> usize {
        self.merges.len()
    }

    /// Adds the sources in f32, and stores the sum. Each source is of any format of one stream, and so is `to`.
    ///
    /// # Errors
    /// [`Error::Sources`] for another number of sources, [`Error::Length`] if a source is not as long as `to`,
    /// [`Error::Format`] for a format of several streams, [`Error::OutOfMemory`], [`Error::UnavailableBackend`]. Nothing
    /// is written then.
    pub fn sum<'a>(
        &self,
        backend: Backend,
        sources: &[TensorRef<'_>],
        to: impl Into<TensorMut<'a>>,
    ) -> Result<(), Error> {
        self.run(backend, sources, None, to.into())
    }

    /// [`sum`](Self::sum), divided by the number of leaves in f32.
    ///
    /// # Errors
    /// Those of [`sum`](Self::sum).
    pub fn mean<'a>(
        &self,
        backend: Backend,
        sources: &[TensorRef<'_>],
        to: impl Into<TensorMut<'a>>,
    ) -> Result<(), Error> {
        self.run(backend, sources, Some(self.leaves as f32), to.into())
    }

    fn run(
        &self,
        backend: Backend,
        sources: &[TensorRef<'_>],
        divisor: Option<f32>,
        to: TensorMut<'_>,
    ) -> Result<(), Error> {
        let (found, expected) = (sources.len(), self.sources());
        if found != expected {
            return Err(Error::Sources { found, expected });
        }
        let len = to.len();
        let views = sources.iter().map(|source| {
            same_length("source", source.len(), "sum", len)?;
            view(Role::Source, source.column)
        });
        let views = views.collect::<Result<Vec<_>, _>>()?;
        let to = view(Role::Copy, to.column)?;
        let mut levels = Vec::new();
        let no_memory = |_| Error::OutOfMemory { elements: self.levels * Level::ELEMENTS, dtype: Dtype::F32 };
        levels.try_reserve_exact(self.levels).map_err(no_memory)?;
        levels.resize_with(self.levels, Level::new);
        // The sources have been counted, are as long as `to`, and there is a level for each sum that waits.
        backend.run(Sum { sources: &views, merges: &self.merges, divisor, to: &to, levels: &mut levels })
    }
}

/// A tensor in a role of the engine's.
fn view(role: Role, column: Column) -> Result<View, Error> {
    if column.dtype.streams().len() > 1 {
        let (tensor, found) = (role.name(), column.dtype);
        return Err(Error::Format { tensor, found, expected: "a format of one stream".into() });
    }
    let mut columns = Columns::none();
    columns.insert(role, column);
    Ok(View { columns, len: column.len, first: 0, prefetch: false })
}

/// Whether two neighbours are the children of a node in the tree over `leaves` leaves, if they are subtrees of it.
fn are_siblings(left: &Range<usize>, right: &Range<usize>, leaves: usize) -> bool {
    let (on_left, on_right) = (left.len(), right.len());
    let complete = on_left.is_power_of_two() && left.start.is_multiple_of(on_left);
    let full = on_right == on_left && left.start.is_multiple_of(2 * on_left);
    let last = right.end == leaves && (1..=on_left).contains(&on_right);
    complete && (full || last)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every node of the tree over `node`, by its definition.
    fn nodes(node: Range<usize>, all: &mut Vec<Range<usize>>) {
        if node.len() > 1 {
            let mut left = 1;
            while 2 * left < node.len() {
                left *= 2;
            }
            nodes(node.start..node.start + left, all);
            nodes(node.start + left..node.end, all);
        }
        all.push(node);
    }

    #[test]
    fn any_cut_into_subtrees_is_a_tree_and_nothing_else_is() {
        for leaves in 1..=17_usize {
            let mut all = Vec::new();
            nodes(0..leaves, &mut all);
            for cuts in 0_u32..1 << (leaves - 1) {
                let cut = |at: usize| at == 0 || at == leaves || cuts >> (at - 1) & 1 == 1;
                let places: Vec<_> = (0..=leaves).filter(|&at| cut(at)).collect();
                let parts: Vec<_> = places.windows(2).map(|pair| pair[0]..pair[1]).collect();
                let expected = parts.iter().all(|part| all.contains(part));
                let lengths: Vec<_> = parts.iter().map(Range::len).collect();
                assert_eq!(SumTree::of_subtrees(&lengths).is_ok(), expected, "{lengths:?}");
            }
        }
    }

    #[test]
    fn a_range_is_the_fewest_subtrees() {
        for leaves in 1..=33 {
            let mut all = Vec::new();
            nodes(0..leaves, &mut all);
            for start in 0..leaves {
                for end in start..=leaves {
                    let found = SumTree::subtrees(leaves, start..end);
                    // A node of the range is among them if its parent is not of the range.
                    let within = |node: &Range<usize>| start <= node.start && node.end <= end;
                    let mut expected: Vec<_> = all.iter().filter(|node| within(node)).cloned().collect();
                    let largest = expected.clone();
                    expected.retain(|node| {
                        !largest.iter().any(|it| it != node && it.start <= node.start && node.end <= it.end)
                    });
                    expected.sort_by_key(|node| node.start);
                    assert_eq!(found, expected, "{start}..{end} of {leaves}");
                }
            }
        }
    }

    #[test]
    fn a_tree_of_two_and_three_thousand_leaves_is_shallow() {
        assert_eq!(SumTree::new(2).map(|tree| tree.levels), Ok(2));
        assert_eq!(SumTree::new(3000).map(|tree| tree.levels), Ok(12));
        assert_eq!(SumTree::new(0), Err(Error::Leaves { found: 0 }));
        assert_eq!(SumTree::of_subtrees(&[0, 1]), Err(Error::Subtrees { sources: 2, leaves: 1 }));
        let most = [usize::MAX, 2];
        assert_eq!(SumTree::of_subtrees(&most), Err(Error::Leaves { found: usize::MAX }));
    }
}
