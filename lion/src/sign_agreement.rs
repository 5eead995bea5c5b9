//! How often a step goes the way of the gradient of its call.

use lion_kernels::Slice;

/// The share of elements for which `momentum * beta_1 + gradient * (1 - beta_1)` has the sign of the gradient, which is
/// that of a number above zero, below zero, or zero. NaN has none. Of no elements the share is 0.
pub(crate) fn share(momentum: Slice<'_>, gradient: Slice<'_>, beta_1: f32, unscale: Option<f32>) -> f64 {
    let used = |gradient: f32| unscale.map_or(gradient, |factor| gradient / factor);
    let agrees = |(momentum, gradient): (f32, f32)| {
        let gradient = used(gradient);
        let direction = momentum * beta_1 + gradient * (1.0 - beta_1);
        direction.partial_cmp(&0.0).is_some_and(|sign| gradient.partial_cmp(&0.0) == Some(sign))
    };
    let pairs = widened(momentum).zip(widened(gradient));
    let agreeing = pairs.filter(|&pair| agrees(pair)).count();
    if gradient.is_empty() { 0.0 } else { agreeing as f64 / gradient.len() as f64 }
}

fn widened(values: Slice<'_>) -> Box<dyn Iterator<Item = f32> + '_> {
    match values {
        Slice::F32(values) => Box::new(values.iter().copied()),
        Slice::F16(values) => Box::new(values.iter().map(|value| value.to_f32())),
        Slice::BF16(values) => Box::new(values.iter().map(|value| value.to_f32())),
    }
}
