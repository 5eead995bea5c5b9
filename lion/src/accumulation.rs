//! Gradients of several calls averaged for one update.

use std::num::{NonZeroU32, NonZeroU64};

use lion_kernels::TensorRef;

use crate::Config;
use crate::stalled::for_each_part;

/// How calls make up updates: every call one, or a number of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccumulationCycle {
    pub(crate) steps: Option<NonZeroU32>,
}

impl AccumulationCycle {
    pub(crate) fn new(config: &Config) -> Self {
        AccumulationCycle { steps: config.gradient_accumulation_steps.and_then(NonZeroU32::new) }
    }

    /// Whether call number `call` is the last of its window, the one that updates.
    pub(crate) fn ends(self, step: u64) -> bool {
        self.steps.is_none_or(|steps| step % NonZeroU64::from(steps) == u64::from(steps.get()) - 1)
    }

    /// The number of the window that the call is in.
    pub(crate) fn index(self, step: u64) -> u64 {
        self.steps.map_or(step, |steps| step / NonZeroU64::from(steps))
    }
}

/// `accumulator = max(gradient, accumulator)`, NaN if either is: how variables that are overwritten with their gradient
/// accumulate. They are few and small, so this has no kernel.
pub(crate) fn accumulate_max(accumulator: &mut [f32], gradient: TensorRef<'_>) {
    let mut rest = accumulator;
    for_each_part(gradient, 1, |values| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(values.len());
        for (largest, &value) in part.iter_mut().zip(values) {
            // A NaN on the left stays, since no comparison with it holds.
            if value > *largest || value.is_nan() {
                *largest = value;
            }
        }
        rest = after;
    });
}
