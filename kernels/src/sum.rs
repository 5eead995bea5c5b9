//! Sums of tensors in a fixed order, such as the gradients of several micro-batches or ranks.
//!
//! A sum in f32 depends on its order, so the order is fixed. The tensors are the leaves of one binary tree. A node of
//! `n` leaves has the largest power of two below `n` of them on its left. A consecutive range of leaves consists of a
//! few whole subtrees ([`SumTree::subtrees`]). Any rank may sum any subtree: the total has the bits of one sum over all
//! leaves.
//!
//! A sum is one pass over memory on the calling thread. For each tile of elements, it reads the tensors in order and
//! keeps partial sums on a stack in the L1 cache.

use alloc::vec::Vec;
use core::ops::Range;

use crate::dispatch::Backend;
use crate::engine::View;
use crate::engine::sum::{Level, Sum};
use crate::error::{Error, check_length};
use crate::format::Dtype;
use crate::pass::PassTensors;
use crate::role::Role;
use crate::tensor::{RawTensor, TensorMut, TensorRef};

/// A sum over several tensors, with a fixed order of additions.
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
/// // The same mean, if another rank has summed the first two leaves.
/// let (first, mut again) = ([3.0_f32, 12.0], [0.0_f32; 2]);
/// let parts = [TensorRef::from(&first), TensorRef::from(&leaves[2])];
/// SumTree::from_subtrees(&[2, 1])?.mean(Backend::best(), &parts, &mut again)?;
/// assert_eq!(again, mean);
/// # Ok::<(), lion_kernels::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumTree {
    leaves: usize,
    /// For each source: the number of additions of the two topmost sums after the source is pushed.
    merges: Vec<u8>,
    /// The maximum depth of the stack of partial sums.
    levels: usize,
}

impl SumTree {
    /// The maximum number of leaves. An f32 represents every integer up to it, so the divisor of a mean is exact.
    pub const MAX_LEAVES: usize = 1 << 24;

    /// Creates a tree in which each leaf is a source.
    ///
    /// # Errors
    /// [`Error::Leaves`] if `leaves` is 0 or more than [`MAX_LEAVES`](Self::MAX_LEAVES).
    pub fn new(leaves: usize) -> Result<Self, Error> {
        Self::build(leaves, leaves, |_| 1)
    }

    /// Creates a tree in which each source is already a sum of consecutive leaves. `leaves` holds the number of leaves
    /// of each source.
    ///
    /// # Errors
    /// [`Error::Leaves`] if the total is 0 or more than [`MAX_LEAVES`](Self::MAX_LEAVES); [`Error::Subtrees`] if a
    /// source is not a subtree.
    pub fn from_subtrees(leaves: &[usize]) -> Result<Self, Error> {
        let all = leaves.iter().copied().fold(0, usize::saturating_add);
        Self::build(all, leaves.len(), |index| leaves.get(index).copied().unwrap_or_default())
    }

    fn build(leaves: usize, sources: usize, of: impl Fn(usize) -> usize) -> Result<Self, Error> {
        if !(1..=Self::MAX_LEAVES).contains(&leaves) {
            return Err(Error::Leaves { found: leaves });
        }
        let mut tree = SumTree { leaves, merges: Vec::with_capacity(sources), levels: 0 };
        // The stack of subtrees that are not yet added.
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

    /// Returns the fewest subtrees, in order, that cover exactly a range of the tree over `leaves` leaves.
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
            // The node lies partly outside the range, so it has at least two leaves.
            let middle = node.start + node.len().next_power_of_two() / 2;
            open.push(middle..node.end);
            open.push(node.start..middle);
        }
        found
    }

    /// Returns the number of leaves.
    pub fn leaves(&self) -> usize {
        self.leaves
    }

    /// Returns the number of sources.
    pub fn sources(&self) -> usize {
        self.merges.len()
    }

    /// Adds the sources in f32 and stores the sum in `to`. Each tensor may have any one-stream format.
    ///
    /// # Errors
    /// [`Error::Sources`] if the number of sources is wrong, [`Error::Length`] if a source's length differs from
    /// `to`'s, [`Error::Format`] for a two-stream format, [`Error::OutOfMemory`], [`Error::UnavailableBackend`].
    /// Nothing is written then.
    pub fn sum<'a>(
        &self,
        backend: Backend,
        sources: &[TensorRef<'_>],
        to: impl Into<TensorMut<'a>>,
    ) -> Result<(), Error> {
        self.run(backend, sources, None, to.into())
    }

    /// Like [`sum`](Self::sum), but divides the sum by the number of leaves, in f32.
    ///
    /// # Errors
    /// The errors of [`sum`](Self::sum).
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
            check_length("source", source.len(), "sum", len)?;
            view(Role::Source, source.raw)
        });
        let views = views.collect::<Result<Vec<_>, _>>()?;
        let to = view(Role::Copy, to.raw)?;
        let mut levels = Vec::new();
        let no_memory = |_| Error::OutOfMemory { elements: self.levels * Level::ELEMENTS, dtype: Dtype::F32 };
        levels.try_reserve_exact(self.levels).map_err(no_memory)?;
        levels.resize_with(self.levels, Level::new);
        // The contract of `Sum` holds: the number of sources and their lengths are checked, and the stack is deep
        // enough.
        backend.run(Sum { sources: &views, merges: &self.merges, divisor, to: &to, levels: &mut levels })
    }
}

/// Returns an engine view of a tensor, in a role.
fn view(role: Role, raw: RawTensor) -> Result<View, Error> {
    if raw.dtype.streams().len() > 1 {
        let (tensor, found) = (role.name(), raw.dtype);
        return Err(Error::Format { tensor, found, expected: "a format of one stream".into() });
    }
    let mut tensors = PassTensors::none();
    tensors.insert(role, raw);
    Ok(View { tensors, len: raw.len, first: 0, prefetch: false })
}

/// Returns whether two adjacent subtrees are the children of one node of the tree over `leaves` leaves.
fn are_siblings(left: &Range<usize>, right: &Range<usize>, leaves: usize) -> bool {
    let (left_len, right_len) = (left.len(), right.len());
    let complete = left_len.is_power_of_two() && left.start.is_multiple_of(left_len);
    let full = right_len == left_len && left.start.is_multiple_of(2 * left_len);
    let last = right.end == leaves && (1..=left_len).contains(&right_len);
    complete && (full || last)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Collects every node of the tree below `node`, from the definition.
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
                assert_eq!(SumTree::from_subtrees(&lengths).is_ok(), expected, "{lengths:?}");
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
                    // The expected nodes are the maximal nodes within the range.
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
        assert_eq!(SumTree::from_subtrees(&[0, 1]), Err(Error::Subtrees { sources: 2, leaves: 1 }));
        let most = [usize::MAX, 2];
        assert_eq!(SumTree::from_subtrees(&most), Err(Error::Leaves { found: usize::MAX }));
    }
}
