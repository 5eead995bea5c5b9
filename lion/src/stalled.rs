//! Parameters that are too coarse for the learning rate.

use half::{bf16, f16};
use lion_kernels::Slice;

/// The share of elements that a step of this size, up or down, leaves as they are: those for which it is below half
/// a unit in the last place. NaN and infinities do not count.
pub(crate) fn share(parameter: Slice<'_>, learning_rate: f32) -> f64 {
    share_of_sample(parameter, learning_rate, usize::MAX)
}

/// The same of at most `most` elements, at equal distances.
pub(crate) fn share_of_sample(parameter: Slice<'_>, learning_rate: f32, most: usize) -> f64 {
    let stride = parameter.len().div_ceil(most.max(1)).max(1);
    let stalled = match parameter {
        Slice::F32(values) => count(values, stride, learning_rate, |&value| value, |value| value),
        Slice::F16(values) => count(values, stride, learning_rate, |value| value.to_f32(), f16::from_f32),
        Slice::BF16(values) => count(values, stride, learning_rate, |value| value.to_f32(), bf16::from_f32),
    };
    let sampled = parameter.len().div_ceil(stride);
    if sampled == 0 { 0.0 } else { stalled as f64 / sampled as f64 }
}

fn count<T: PartialEq>(
    values: &[T],
    stride: usize,
    learning_rate: f32,
    widen: impl Fn(&T) -> f32,
    round: impl Fn(f32) -> T,
) -> usize {
    let stays = |value: &T| {
        let wide = widen(value);
        wide.is_finite() && round(wide + learning_rate) == *value && round(wide - learning_rate) == *value
    };
    values.iter().step_by(stride).filter(|value| stays(value)).count()
}
