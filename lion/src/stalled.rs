//! Detects parameters whose update rounds to nothing at the current learning rate.

use lion_kernels::TensorRef;

/// Returns the fraction of elements that a step of this size leaves unchanged in both directions, because it is below half
/// a unit in the last place. NaN and infinities do not count as stalled.
pub(crate) fn fraction(parameter: TensorRef<'_>, learning_rate: f32) -> f64 {
    fraction_of_sample(parameter, learning_rate, usize::MAX)
}

/// Returns the same fraction for a sample of at most `most` elements at equal distances.
pub(crate) fn fraction_of_sample(parameter: TensorRef<'_>, learning_rate: f32, most: usize) -> f64 {
    let stride = parameter.len().div_ceil(most.max(1)).max(1);
    let (mut stalled, mut sampled) = (0, 0);
    for_each_part(parameter, stride, |values| {
        let moved = |step: f32| {
            let mut moved = [0.0; PART];
            moved.iter_mut().zip(values).for_each(|(to, value)| *to = value + step);
            parameter.dtype().round(&mut moved);
            moved
        };
        let (up, down) = (moved(learning_rate), moved(-learning_rate));
        let stays =
            |((value, up), down): ((&f32, &f32), &f32)| value.is_finite() && up == value && down == value;
        stalled += values.iter().zip(&up).zip(&down).filter(|&it| stays(it)).count();
        sampled += values.len();
    });
    if sampled == 0 { 0.0 } else { stalled as f64 / sampled as f64 }
}

/// The number of elements that are converted at a time.
pub(crate) const PART: usize = 512;

/// Calls `each` with the values of every `stride`-th element of a tensor, at most [`PART`] at a time.
pub(crate) fn for_each_part(tensor: TensorRef<'_>, stride: usize, mut each: impl FnMut(&[f32])) {
    let mut values = [0.0; PART];
    let count = tensor.len().div_ceil(stride);
    for start in (0..count).step_by(PART) {
        let part = &mut values[..PART.min(count - start)];
        let read = match stride {
            1 => tensor.read_f32(start, part),
            _ => part
                .chunks_mut(1)
                .enumerate()
                .try_for_each(|(index, value)| tensor.read_f32((start + index) * stride, value)),
        };
        read.expect("the elements are within the tensor");
        each(part);
    }
}
