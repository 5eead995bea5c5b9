//! Gradients of several calls averaged for one update.

use std::num::{NonZeroU32, NonZeroU64};

use lion_kernels::Slice;

use crate::Config;

/// How calls make up updates: every call one, or a number of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) calls: Option<NonZeroU32>,
}

impl Window {
    pub(crate) fn new(config: &Config) -> Self {
        Window { calls: config.gradient_accumulation_steps.and_then(NonZeroU32::new) }
    }

    /// Whether call number `call` is the last of its window, the one that updates.
    pub(crate) fn ends(self, call: u64) -> bool {
        self.calls.is_none_or(|calls| call % NonZeroU64::from(calls) == u64::from(calls.get()) - 1)
    }

    /// The number of the window that the call is in.
    pub(crate) fn index(self, call: u64) -> u64 {
        self.calls.map_or(call, |calls| call / NonZeroU64::from(calls))
    }
}

/// `accumulator = max(gradient, accumulator)`, NaN where either is: how variables that are overwritten with their
/// gradient accumulate. They are few and small, so this has no kernel.
pub(crate) fn raise(accumulator: &mut [f32], gradient: Slice<'_>) {
    match gradient {
        Slice::F32(values) => raise_by(accumulator, values.iter().copied()),
        Slice::F16(values) => raise_by(accumulator, values.iter().map(|value| value.to_f32())),
        Slice::BF16(values) => raise_by(accumulator, values.iter().map(|value| value.to_f32())),
    }
}

fn raise_by(accumulator: &mut [f32], gradient: impl Iterator<Item = f32>) {
    for (largest, value) in accumulator.iter_mut().zip(gradient) {
        // A NaN on the left stays, since no comparison with it holds.
        if value > *largest || value.is_nan() {
            *largest = value;
        }
    }
}
