//! Gradient statistics: the norm, and a count of non-finite elements. Clipping and loss scaling need both before a step.
//!
//! A sum depends on its order, so the order is fixed: a tensor is cut into blocks of [`STATISTICS_BLOCK`] elements, element `i` of a
//! block is added to partial sum `i % 32`, the 32 partial sums of a block are added as a balanced tree, and the blocks
//! from the first to the last, all in f64, in which the square of an f32 is exact. Every backend has a number of lanes
//! that divides 32, and tasks are cut at whole blocks: the same bits on every backend, thread count and chunk size.

use crate::float_state::with_ieee_state;

/// Elements of a block: the unit that statistics are summed in, and that tasks are cut at.
pub const STATISTICS_BLOCK: usize = 4096;

/// The statistics of a gradient, or of a part of one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GradientStatistics {
    /// The sum of the squares of the elements, divided by the loss scale and averaged but not clipped. NaN or infinite if
    /// an element is.
    pub sum_of_squares: f64,
    /// How many elements were infinite or NaN as they were given, before the division by the loss scale.
    pub non_finite: u64,
    /// The largest magnitude among the finite elements, divided and averaged but not clipped; 0 if there is none.
    pub max_abs: f32,
}

impl GradientStatistics {
    /// The statistics of consecutive blocks, from those of each.
    pub fn from_blocks(blocks: &[GradientStatistics]) -> Self {
        match blocks {
            // Most tensors are one block: of one term there is no arithmetic to do.
            [block] => *block,
            _ => with_ieee_state(|| {
                blocks.iter().fold(Self::default(), |all, block| all.merge_in_ieee_state(block))
            }),
        }
    }

    /// The L2 norm. The sum is rounded to f32 before its root is taken, so that the norm is infinite if Keras's is.
    #[cfg(feature = "std")]
    pub fn norm(&self) -> f32 {
        with_ieee_state(|| (self.sum_of_squares as f32).sqrt())
    }

    /// The statistics of this part and then that one. The order affects the bits of the sum.
    #[must_use]
    pub fn merge(&self, next: &Self) -> Self {
        with_ieee_state(|| self.merge_in_ieee_state(next))
    }

    /// [`merge`](Self::merge) under whatever state the caller is in.
    pub(crate) fn merge_in_ieee_state(&self, next: &Self) -> Self {
        GradientStatistics {
            sum_of_squares: self.sum_of_squares + next.sum_of_squares,
            non_finite: self.non_finite + next.non_finite,
            max_abs: self.max_abs.max(next.max_abs),
        }
    }
}
