//! The fraction of elements that a step moves against the sign of their gradient.

use lion_kernels::TensorRef;

use crate::stalled::{PART, for_each_part};

/// Returns the fraction of elements for which `momentum * beta_1 + gradient * (1 - beta_1)` has the sign of the gradient:
/// both above zero, both below zero, or both zero. NaN agrees with nothing. Without elements the fraction is 0.
pub(crate) fn fraction(
    momentum: TensorRef<'_>,
    gradient: TensorRef<'_>,
    beta_1: f32,
    unscale: Option<f32>,
) -> f64 {
    let used = |gradient: f32| unscale.map_or(gradient, |factor| gradient / factor);
    let agrees = |(momentum, gradient): (f32, f32)| {
        let gradient = used(gradient);
        let direction = momentum * beta_1 + gradient * (1.0 - beta_1);
        direction.partial_cmp(&0.0).is_some_and(|sign| gradient.partial_cmp(&0.0) == Some(sign))
    };
    let mut agreeing = 0;
    let mut start = 0;
    for_each_part(gradient, 1, |gradient| {
        let mut momenta = [0.0; PART];
        let part = &mut momenta[..gradient.len()];
        momentum.read_f32(start, part).expect("the momentum has the gradient's length");
        start += gradient.len();
        agreeing += part.iter().zip(gradient).filter(|&(&m, &g)| agrees((m, g))).count();
    });
    if gradient.is_empty() { 0.0 } else { agreeing as f64 / gradient.len() as f64 }
}
