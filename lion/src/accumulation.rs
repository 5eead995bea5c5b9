//! Gradients of several calls averaged for one update.

use lion_kernels::Slice;

/// How calls make up updates: every call one, or a number of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) calls: Option<u32>,
}

impl Window {
    fn length(self) -> u64 {
        self.calls.map_or(1, u64::from).max(1)
    }

    /// Whether call number `call` is the last of its window, the one that updates.
    pub(crate) fn ends(self, call: u64) -> bool {
        call % self.length() == self.length() - 1
    }

    /// The number of the window that the call is in.
    pub(crate) fn index(self, call: u64) -> u64 {
        call / self.length()
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
