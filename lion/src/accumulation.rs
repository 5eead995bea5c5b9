//! Gradient accumulation: the mean of several steps' gradients makes one update.

use std::num::{NonZeroU32, NonZeroU64};

use lion_kernels::TensorRef;

use crate::Config;
use crate::stalled::for_each_part;

/// The number of steps per update; without accumulation every step updates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccumulationCycle {
    pub(crate) steps: Option<NonZeroU32>,
}

impl AccumulationCycle {
    pub(crate) fn new(config: &Config) -> Self {
        AccumulationCycle { steps: config.gradient_accumulation_steps.and_then(NonZeroU32::new) }
    }

    /// Returns whether the step is the last of its cycle and so updates the parameters.
    pub(crate) fn ends(self, step: u64) -> bool {
        self.steps.is_none_or(|steps| step % NonZeroU64::from(steps) == u64::from(steps.get()) - 1)
    }

    /// Returns the number of the step's cycle.
    pub(crate) fn index(self, step: u64) -> u64 {
        self.steps.map_or(step, |steps| step / NonZeroU64::from(steps))
    }
}

/// Accumulates for variables that are overwritten with their gradient: `accumulator = max(gradient, accumulator)`, NaN
/// if either is NaN. These variables are few and small, so this needs no kernel.
pub(crate) fn accumulate_max(accumulator: &mut [f32], gradient: TensorRef<'_>) {
    let mut rest = accumulator;
    for_each_part(gradient, 1, |values| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(values.len());
        for (largest, &value) in part.iter_mut().zip(values) {
            // A NaN on the left stays, as every comparison with it is false.
            if value > *largest || value.is_nan() {
                *largest = value;
            }
        }
        rest = after;
    });
}
