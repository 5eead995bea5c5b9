//! The reference of [`SumTree`](crate::SumTree): the sum of several tensors along one binary tree.

use super::Float;

/// Adds the leaves element by element in f32, along the tree of [`SumTree`](crate::SumTree): a node of `n` leaves has
/// the largest power of two below `n` of them on its left. If `mean` is set, divides the sum by the number of leaves.
///
/// # Panics
/// If `leaves` is empty, or if a leaf is shorter than `to`.
pub fn sum<F: Float, T: Float>(leaves: &[&[F]], mean: bool, to: &mut [T]) {
    for (i, to) in to.iter_mut().enumerate() {
        let sum = node(leaves, i);
        *to = T::round(if mean { sum / leaves.len() as f32 } else { sum });
    }
}

fn node<F: Float>(leaves: &[&[F]], i: usize) -> f32 {
    if let [leaf] = leaves {
        return leaf[i].widen();
    }
    let mut left_len = 1;
    while left_len * 2 < leaves.len() {
        left_len *= 2;
    }
    let (left, right) = leaves.split_at(left_len);
    node(left, i) + node(right, i)
}
