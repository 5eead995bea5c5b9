//! Classifies handwritten digits with softmax regression in ndarray: `cargo run --release -p lion-ndarray --example
//! ndarray_digits`.

#[path = "../../../lion/examples/digits/data.rs"]
mod data;
#[path = "../../../lion/examples/digits/random.rs"]
mod random;

use std::error::Error;

use data::{CLASSES, Digit, Digits, PIXELS};
use lion_ndarray::{Lion, Update};
use ndarray::{Array1, Array2, Axis};

const EPOCHS: usize = 30;
const BATCH: usize = 32;

/// Returns the images, one per row, and their labels, one-hot encoded.
fn arrays(digits: &[&Digit]) -> (Array2<f32>, Array2<f32>) {
    let images = Array2::from_shape_fn((digits.len(), PIXELS), |(row, pixel)| digits[row].pixels[pixel]);
    let shows = |row: usize, class| if digits[row].label == class { 1.0 } else { 0.0 };
    (images, Array2::from_shape_fn((digits.len(), CLASSES), |(row, class)| shows(row, class)))
}

fn softmax(mut scores: Array2<f32>) -> Array2<f32> {
    for mut row in scores.rows_mut() {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.mapv_inplace(|score| (score - highest).exp());
        let sum = row.sum();
        row /= sum;
    }
    scores
}

fn accuracy(weight: &Array2<f32>, bias: &Array1<f32>, digits: &[Digit]) -> f32 {
    let (images, labels) = arrays(&digits.iter().collect::<Vec<_>>());
    let probabilities = softmax(images.dot(weight) + bias);
    // The prediction is right if the label's probability is the highest.
    let right = probabilities
        .rows()
        .into_iter()
        .zip(labels.rows())
        .filter(|(found, label)| found.dot(label) == found.iter().copied().fold(0.0, f32::max));
    100.0 * right.count() as f32 / digits.len() as f32
}

fn main() -> Result<(), Box<dyn Error>> {
    let digits = Digits::load()?;
    let mut random = random::Random::seeded(1);
    let mut weight = Array2::from_shape_fn((PIXELS, CLASSES), |_| 0.1 * random.uniform());
    let mut bias = Array1::<f32>::zeros(CLASSES);

    let mut optimizer = Lion::new(Lion::builder().learning_rate(0.003).weight_decay(0.1))?;
    let weight_id = optimizer.register("weight", &weight)?;
    let bias_id = optimizer.register("bias", &bias)?;

    let mut order: Vec<&Digit> = digits.training.iter().collect();
    for _ in 0..EPOCHS {
        random.shuffle(&mut order);
        for batch in order.chunks(BATCH) {
            let (images, labels) = arrays(batch);
            let probabilities = softmax(images.dot(&weight) + &bias);
            let for_scores = (probabilities - labels) / batch.len() as f32;
            let (for_weight, for_bias) = (images.t().dot(&for_scores), for_scores.sum_axis(Axis(0)));
            optimizer.apply(&mut [
                Update::new(weight_id, &mut weight, &for_weight),
                Update::new(bias_id, &mut bias, &for_bias),
            ])?;
        }
    }
    println!("{:.2} % of the digits that it never saw", accuracy(&weight, &bias, &digits.held_out));
    Ok(())
}
