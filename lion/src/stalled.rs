//! Parameters that are too coarse for the learning rate.

use half::{bf16, f16};
use lion_kernels::Slice;

/// The share of elements that a step of this size, up or down, leaves as they are: those for which it is below half
/// a unit in the last place. NaN and infinities do not count.
pub(crate) fn share(parameter: Slice<'_>, learning_rate: f32) -> f64 {
    let stalled = match parameter {
        Slice::F32(values) => count(values, learning_rate, |&value| value, |value| value),
        Slice::F16(values) => count(values, learning_rate, |value| value.to_f32(), f16::from_f32),
        Slice::BF16(values) => count(values, learning_rate, |value| value.to_f32(), bf16::from_f32),
    };
    if parameter.is_empty() { 0.0 } else { stalled as f64 / parameter.len() as f64 }
}

fn count<T: PartialEq>(
    values: &[T],
    learning_rate: f32,
    widen: impl Fn(&T) -> f32,
    round: impl Fn(f32) -> T,
) -> usize {
    let stays = |value: &T| {
        let wide = widen(value);
        wide.is_finite() && round(wide + learning_rate) == *value && round(wide - learning_rate) == *value
    };
    values.iter().filter(|value| stays(value)).count()
}
