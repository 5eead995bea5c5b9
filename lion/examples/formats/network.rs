//! Small networks, forward and backward, in plain f32.

use crate::data::{CLASSES, Digit};
use crate::random::Random;

/// The side of an image, and of a convolution's maps, in pixels.
const SIDE: usize = 8;
const AREA: usize = SIDE * SIDE;
/// The number of elements of a convolution's window.
const WINDOW: usize = 9;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Layer {
    /// A dense layer: each output is a weighted sum of all inputs.
    Dense { inputs: usize, outputs: usize },
    /// A convolution with windows of 3 by 3 over maps of 8 by 8, with padding.
    Convolution { inputs: usize, outputs: usize },
    /// Average pooling of 2 by 2 elements of maps of 8 by 8.
    Pool { maps: usize },
    /// ReLU.
    Rectify,
}

/// A variable of a network: its name, its shape, and how many inputs an output sums.
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) shape: [usize; 2],
}

impl Layer {
    /// The shape of the weight: a row for each input of an output.
    fn weight(self) -> Option<[usize; 2]> {
        match self {
            Layer::Dense { inputs, outputs } => Some([inputs, outputs]),
            Layer::Convolution { inputs, outputs } => Some([inputs * WINDOW, outputs]),
            Layer::Pool { .. } | Layer::Rectify => None,
        }
    }

    /// `parameters` are the weight and the bias, of a layer that has them.
    fn forward(self, parameters: &[Vec<f32>], input: &[f32]) -> Vec<f32> {
        match (self, parameters) {
            (Layer::Rectify, _) => input.iter().map(|value| value.max(0.0)).collect(),
            (Layer::Pool { maps }, _) => {
                let place = |at: usize| corners(at).map(|corner| input[corner]).iter().sum::<f32>() / 4.0;
                (0..maps * AREA / 4).map(place).collect()
            }
            (Layer::Dense { outputs, .. }, [weight, bias]) => {
                let mut sums = bias.clone();
                for (value, row) in input.iter().zip(weight.chunks_exact(outputs)) {
                    add(&mut sums, *value, row);
                }
                sums
            }
            (Layer::Convolution { inputs, outputs }, [weight, bias]) => {
                let mut maps = vec![0.0; outputs * AREA];
                for at in 0..AREA {
                    let mut sums = bias.clone();
                    for (row, from) in windows(inputs, at) {
                        add(&mut sums, input[from], &weight[row * outputs..][..outputs]);
                    }
                    for (map, sum) in sums.into_iter().enumerate() {
                        maps[map * AREA + at] = sum;
                    }
                }
                maps
            }
            _ => unreachable!("a layer with weights has them"),
        }
    }

    /// Adds to the gradients of the parameters, and returns the gradient of the input.
    fn backward(
        self,
        parameters: &[Vec<f32>],
        gradients: &mut [Vec<f32>],
        input: &[f32],
        slopes: &[f32],
    ) -> Vec<f32> {
        let mut of_input = vec![0.0; input.len()];
        match (self, parameters, gradients) {
            (Layer::Rectify, ..) => {
                for ((to, value), slope) in of_input.iter_mut().zip(input).zip(slopes) {
                    *to = if *value > 0.0 { *slope } else { 0.0 };
                }
            }
            (Layer::Pool { .. }, ..) => {
                for (at, slope) in slopes.iter().enumerate() {
                    for corner in corners(at) {
                        of_input[corner] = slope / 4.0;
                    }
                }
            }
            (Layer::Dense { outputs, .. }, [weight, _], [for_weight, for_bias]) => {
                add(for_bias, 1.0, slopes);
                let rows = weight.chunks_exact(outputs).zip(for_weight.chunks_exact_mut(outputs));
                for ((value, to), (row, for_row)) in input.iter().zip(&mut of_input).zip(rows) {
                    add(for_row, *value, slopes);
                    *to = product(row, slopes);
                }
            }
            (Layer::Convolution { inputs, outputs }, [weight, _], [for_weight, for_bias]) => {
                for at in 0..AREA {
                    let slopes: Vec<f32> = (0..outputs).map(|map| slopes[map * AREA + at]).collect();
                    add(for_bias, 1.0, &slopes);
                    for (row, from) in windows(inputs, at) {
                        add(&mut for_weight[row * outputs..][..outputs], input[from], &slopes);
                        of_input[from] += product(&weight[row * outputs..][..outputs], &slopes);
                    }
                }
            }
            _ => unreachable!("a layer with weights has them"),
        }
        of_input
    }
}

/// Returns the four elements of a map of 8 by 8 that are averaged to element `at` of a map of 4 by 4.
fn corners(at: usize) -> [usize; 4] {
    let (map, row, column) = (at / 16, at % 16 / 4, at % 4);
    let first = map * AREA + 2 * row * SIDE + 2 * column;
    [first, first + 1, first + SIDE, first + SIDE + 1]
}

/// Returns the weight's rows and the inputs that an output of a convolution sums; inputs beyond the border are left out.
fn windows(inputs: usize, at: usize) -> impl Iterator<Item = (usize, usize)> {
    let (row, column) = (at / SIDE, at % SIDE);
    (0..inputs * WINDOW).filter_map(move |index| {
        let (map, place) = (index / WINDOW, index % WINDOW);
        let (row, column) = (row + place / 3, column + place % 3);
        let inside = (1..=SIDE).contains(&row) && (1..=SIDE).contains(&column);
        inside.then(|| (index, map * AREA + (row - 1) * SIDE + column - 1))
    })
}

fn add(sums: &mut [f32], factor: f32, row: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(row) {
        *sum += factor * value;
    }
}

fn product(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Layers from the pixels to the scores of the classes.
pub(crate) struct Network {
    pub(crate) name: &'static str,
    layers: Vec<Layer>,
}

impl Network {
    /// The network of the example `digits`.
    pub(crate) fn dense() -> Self {
        let layers = vec![
            Layer::Dense { inputs: AREA, outputs: 128 },
            Layer::Rectify,
            Layer::Dense { inputs: 128, outputs: CLASSES },
        ];
        Network { name: "dense", layers }
    }

    pub(crate) fn convolutional() -> Self {
        let layers = vec![
            Layer::Convolution { inputs: 1, outputs: 16 },
            Layer::Rectify,
            Layer::Convolution { inputs: 16, outputs: 32 },
            Layer::Rectify,
            Layer::Pool { maps: 32 },
            Layer::Dense { inputs: 32 * AREA / 4, outputs: 128 },
            Layer::Rectify,
            Layer::Dense { inputs: 128, outputs: CLASSES },
        ];
        Network { name: "convolutional", layers }
    }

    /// A weight and a bias for each layer that has them.
    pub(crate) fn variables(&self) -> Vec<Variable> {
        let mut variables = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            if let Some(shape @ [_, outputs]) = layer.weight() {
                variables.push(Variable { name: format!("{number}.weight"), shape });
                variables.push(Variable { name: format!("{number}.bias"), shape: [1, outputs] });
            }
        }
        variables
    }

    /// Returns biases of zero, and weights that preserve the variance (He et al., 2015).
    pub(crate) fn initial(&self, random: &mut Random) -> Vec<Vec<f32>> {
        let initial = |variable: &Variable| {
            let [inputs, outputs] = variable.shape;
            let bound = if inputs == 1 { 0.0 } else { (6.0 / inputs as f32).sqrt() };
            (0..inputs * outputs).map(|_| bound * random.uniform()).collect()
        };
        self.variables().iter().map(initial).collect()
    }

    /// The input of each layer, and the scores.
    fn forward(&self, parameters: &[Vec<f32>], digit: &Digit) -> Vec<Vec<f32>> {
        let mut values = vec![digit.pixels.to_vec()];
        let mut rest = parameters;
        for layer in &self.layers {
            let (own, others) = rest.split_at(if layer.weight().is_some() { 2 } else { 0 });
            let next = layer.forward(own, values.last().map_or(&[], Vec::as_slice));
            values.push(next);
            rest = others;
        }
        values
    }

    /// Returns the accuracy.
    pub(crate) fn accuracy(&self, parameters: &[Vec<f32>], digits: &[Digit]) -> f64 {
        let right = |digit: &&Digit| {
            let values = self.forward(parameters, digit);
            let scores = values.last().map_or(&[][..], Vec::as_slice);
            (0..CLASSES).max_by(|&a, &b| scores[a].total_cmp(&scores[b])) == Some(digit.label)
        };
        digits.iter().filter(right).count() as f64 / digits.len() as f64
    }

    /// Returns the cross-entropy summed over a batch, and the gradients of its mean.
    pub(crate) fn backward(&self, parameters: &[Vec<f32>], batch: &[&Digit]) -> (f64, Vec<Vec<f32>>) {
        let mut gradients: Vec<Vec<f32>> = parameters.iter().map(|values| vec![0.0; values.len()]).collect();
        let mut loss = 0.0;
        for digit in batch {
            let mut values = self.forward(parameters, digit);
            let probabilities = softmax(&values.pop().unwrap_or_default());
            loss -= f64::from(libm::logf(probabilities[digit.label]));
            let slope = |(class, probability): (usize, &f32)| {
                (probability - f32::from(class == digit.label)) / batch.len() as f32
            };
            let mut slopes: Vec<f32> = probabilities.iter().enumerate().map(slope).collect();
            let mut end = parameters.len();
            for (layer, input) in self.layers.iter().zip(&values).rev() {
                let own = end - if layer.weight().is_some() { 2 } else { 0 }..end;
                end = own.start;
                slopes = layer.backward(&parameters[own.clone()], &mut gradients[own], input, &slopes);
            }
        }
        (loss, gradients)
    }
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = scores.iter().map(|score| libm::expf(score - highest)).collect();
    let total: f32 = powers.iter().sum();
    powers.iter().map(|power| power / total).collect()
}
