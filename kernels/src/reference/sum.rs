//! The sum of several tensors along one binary tree.

use super::Float;

/// Adds the leaves element by element in f32, the largest power of two below their number on the left of each node, and
/// divides by their number if `mean` is set: what [`SumTree`](crate::SumTree) does.
///
/// # Panics
/// Without leaves, and where one is shorter than `to`.
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
    let mut on_left = 1;
    while on_left * 2 < leaves.len() {
        on_left *= 2;
    }
    let (left, right) = leaves.split_at(on_left);
    node(left, i) + node(right, i)
}
