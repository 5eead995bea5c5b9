//! Gradient statistics: the norm, and a count of non-finite elements. Clipping and loss scaling need both before a
//! step.
//!
//! A sum depends on its order, so the order is fixed:
//!
//! 1. A tensor is cut into blocks of [`STATISTICS_BLOCK`] elements.
//! 2. Element `i` of a block is added to partial sum `i % 32`.
//! 3. The 32 partial sums of a block are added as a balanced tree.
//! 4. The sums of the blocks are added from the first to the last.
//!
//! All sums are f64, where the square of an f32 is exact. Every backend's number of lanes divides 32, and tasks are
//! split at whole blocks. So the bits do not depend on backend, thread count or chunk size.

use crate::float_state::with_ieee_state;

/// The number of elements in a block. Statistics are summed by block, and tasks are split at multiples of it.
pub const STATISTICS_BLOCK: usize = 4096;

/// The statistics of a gradient, or of a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GradientStatistics {
    /// The sum of squares after loss scaling and averaging, before clipping. NaN or infinite if an element is.
    pub sum_of_squares: f64,
    /// The number of infinite or NaN elements, before loss scaling.
    pub non_finite: u64,
    /// The largest finite magnitude after loss scaling and averaging, before clipping; 0 if no element is finite.
    pub max_abs: f32,
}

impl GradientStatistics {
    /// Merges the statistics of consecutive blocks.
    pub fn from_blocks(blocks: &[GradientStatistics]) -> Self {
        match blocks {
            // Most tensors have one block, which needs no arithmetic and no change of the floating-point state.
            [block] => *block,
            _ => with_ieee_state(|| {
                blocks.iter().fold(Self::default(), |all, block| all.merge_in_ieee_state(block))
            }),
        }
    }

    /// Returns the L2 norm. The sum is rounded to f32 before the square root, so the norm overflows exactly if Keras's
    /// does.
    #[cfg(feature = "std")]
    pub fn norm(&self) -> f32 {
        with_ieee_state(|| (self.sum_of_squares as f32).sqrt())
    }

    /// Merges the statistics of this part with the next part's. The order affects the bits of the sum.
    #[must_use]
    pub fn merge(&self, next: &Self) -> Self {
        with_ieee_state(|| self.merge_in_ieee_state(next))
    }

    /// [`merge`](Self::merge) for a caller that has set the IEEE state.
    pub(crate) fn merge_in_ieee_state(&self, next: &Self) -> Self {
        GradientStatistics {
            sum_of_squares: self.sum_of_squares + next.sum_of_squares,
            non_finite: self.non_finite + next.non_finite,
            max_abs: self.max_abs.max(next.max_abs),
        }
    }
}
