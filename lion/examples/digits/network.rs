//! The network, forward and backward, in plain f32: 64 pixels, 128 rectified hidden units, 10 digits.
//!
//! Every operation is rounded once, in a fixed order, and the exponential is libm's instead of the platform's. So every
//! machine computes the same gradients.

use std::array::from_fn;

use crate::data::{CLASSES, Digit, PIXELS};
use crate::random::Random;

const HIDDEN: usize = 128;

/// The variables of the network, by name and shape. A weight has a row for each of its inputs.
pub(crate) const VARIABLES: [(&str, &[usize]); 4] = [
    ("hidden.weight", &[PIXELS, HIDDEN]),
    ("hidden.bias", &[HIDDEN]),
    ("output.weight", &[HIDDEN, CLASSES]),
    ("output.bias", &[CLASSES]),
];

/// A tensor for each variable: the parameters, their gradients, or their momentum.
pub(crate) type Tensors<T> = [Vec<T>; VARIABLES.len()];

pub(crate) fn zeros<T: Clone + Default>() -> Tensors<T> {
    VARIABLES.map(|(_, shape)| vec![T::default(); shape.iter().product()])
}

/// Returns biases of zero, and weights that preserve the variance (He et al., 2015).
pub(crate) fn initial(random: &mut Random) -> Tensors<f32> {
    let mut parameters = zeros();
    for ((_, shape), tensor) in VARIABLES.iter().zip(&mut parameters) {
        if let [inputs, _] = shape {
            let bound = (6.0 / *inputs as f32).sqrt();
            tensor.fill_with(|| bound * random.uniform());
        }
    }
    parameters
}

/// Returns the digit that the network predicts.
pub(crate) fn classify(parameters: &Tensors<f32>, digit: &Digit) -> usize {
    let (_, scores) = forward(parameters, &digit.pixels);
    (0..CLASSES).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
}

/// Returns the cross-entropy summed over the batch, and the gradients of its mean.
pub(crate) fn backward(parameters: &Tensors<f32>, batch: &[&Digit]) -> (f32, Tensors<f32>) {
    let [_, _, output_weight, _] = parameters;
    let mut gradients = zeros();
    let [for_hidden_weight, for_hidden_bias, for_output_weight, for_output_bias] = &mut gradients;
    let mut loss = 0.0;
    for digit in batch {
        let (hidden, scores) = forward(parameters, &digit.pixels);
        let probabilities = softmax(scores);
        loss -= libm::logf(probabilities[digit.label]);

        let for_scores: [f32; CLASSES] = from_fn(|class| {
            let truth = f32::from(class == digit.label);
            (probabilities[class] - truth) / batch.len() as f32
        });
        let mut for_hidden = [0.0; HIDDEN];
        for ((slope, value), row) in for_hidden.iter_mut().zip(hidden).zip(output_weight.chunks(CLASSES)) {
            if value > 0.0 {
                *slope = row.iter().zip(for_scores).map(|(weight, score)| weight * score).sum();
            }
        }

        add_products(for_output_weight, &hidden, &for_scores);
        add_products(for_output_bias, &[1.0], &for_scores);
        add_products(for_hidden_weight, &digit.pixels, &for_hidden);
        add_products(for_hidden_bias, &[1.0], &for_hidden);
    }
    (loss, gradients)
}

/// Returns the hidden layer and the scores of the digits.
fn forward(parameters: &Tensors<f32>, pixels: &[f32]) -> ([f32; HIDDEN], [f32; CLASSES]) {
    let [hidden_weight, hidden_bias, output_weight, output_bias] = parameters;
    let hidden = layer(hidden_weight, hidden_bias, pixels).map(|sum: f32| if sum > 0.0 { sum } else { 0.0 });
    (hidden, layer(output_weight, output_bias, &hidden))
}

fn layer<const N: usize>(weight: &[f32], bias: &[f32], input: &[f32]) -> [f32; N] {
    let mut output = [0.0; N];
    for (sum, bias) in output.iter_mut().zip(bias) {
        *sum = *bias;
    }
    for (value, row) in input.iter().zip(weight.chunks_exact(N)) {
        for (sum, weight) in output.iter_mut().zip(row) {
            *sum += value * weight;
        }
    }
    output
}

/// Adds the outer product of `left` and `right` to a matrix, with a row for each element of `left`.
fn add_products<const N: usize>(matrix: &mut [f32], left: &[f32], right: &[f32; N]) {
    for (row, left) in matrix.chunks_exact_mut(N).zip(left) {
        for (sum, right) in row.iter_mut().zip(right) {
            *sum += left * right;
        }
    }
}

fn softmax(scores: [f32; CLASSES]) -> [f32; CLASSES] {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers = scores.map(|score| libm::expf(score - highest));
    let total: f32 = powers.iter().sum();
    powers.map(|power| power / total)
}
