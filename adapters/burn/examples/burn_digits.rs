//! Trains a small convolutional network on handwritten digits, with burn's Lion and then with this one: `cargo run
//! --release -p lion-burn --example burn_digits`.

#[path = "../../../lion/examples/digits/data.rs"]
mod data;
#[path = "../../../lion/examples/digits/random.rs"]
#[expect(dead_code, reason = "the first weights are burn's")]
mod random;

use std::error::Error;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::relu};
use data::{CLASSES, Digit, Digits};
use random::Random;

const EPOCHS: usize = 12;
const BATCH: usize = 32;
const RATE: f64 = 0.001;

#[derive(Module, Debug)]
struct Network {
    first: Conv2d,
    second: Conv2d,
    pool: MaxPool2d,
    output: Linear,
}

impl Network {
    fn new(device: &Device) -> Self {
        let convolution = |channels| {
            Conv2dConfig::new(channels, [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device)
        };
        Network {
            first: convolution([1, 8]),
            second: convolution([8, 16]),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            output: LinearConfig::new(16 * 2 * 2, CLASSES).init(device),
        }
    }

    /// Returns a score for each digit. The images are 8 × 8 pixels, and are halved twice.
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let hidden = self.pool.forward(relu(self.first.forward(images)));
        let hidden = self.pool.forward(relu(self.second.forward(hidden)));
        self.output.forward(hidden.flatten::<2>(1, 3))
    }

    /// Returns the accuracy in percent.
    fn accuracy(&self, digits: &[Digit], device: &Device) -> f32 {
        let (images, labels) = tensors(&digits.iter().collect::<Vec<_>>(), device);
        let right = self.forward(images).argmax(1).flatten::<1>(0, 1).equal(labels).int().sum();
        100.0 * right.into_scalar::<i64>() as f32 / digits.len() as f32
    }
}

fn tensors(digits: &[&Digit], device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
    let pixels: Vec<f32> = digits.iter().flat_map(|digit| digit.pixels).collect();
    let labels: Vec<i64> = digits.iter().map(|digit| digit.label as i64).collect();
    let images = Tensor::from_data(TensorData::new(pixels, [digits.len(), 1, 8, 8]), device);
    (images, Tensor::from_data(TensorData::new(labels, [digits.len()]), device))
}

/// Trains a network, from the same initial weights in each call. Prints the accuracy and the optimizer's median step
/// time.
fn train(name: &str, mut optimizer: ModuleOptimizer, digits: &Digits) {
    let device = Device::flex().autodiff();
    device.seed(1);
    let mut network = Network::new(&device);
    let loss = CrossEntropyLossConfig::new().init(&device);
    let mut random = Random::seeded(2);
    let mut order: Vec<&Digit> = digits.training.iter().collect();
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..EPOCHS {
        random.shuffle(&mut order);
        for batch in order.chunks(BATCH) {
            let (images, labels) = tensors(batch, &device);
            let gradients = loss.forward(network.forward(images), labels).backward();
            let gradients = GradientsParams::from_grads(gradients, &network);
            let start = Instant::now();
            network = optimizer.step(RATE, network, gradients);
            times.push(start.elapsed());
        }
    }
    times.sort();
    let (accuracy, time) = (network.accuracy(&digits.held_out, &device), times[times.len() / 2]);
    println!("{name:>11}: {accuracy:.2} % right, {time:.1?} a step");
}

fn main() -> Result<(), Box<dyn Error>> {
    let digits = Digits::load()?;
    train("burn's Lion", burn::optim::LionConfig::new().with_weight_decay(0.1).init(), &digits);
    train("this Lion", lion_burn::LionConfig::new().with_weight_decay(0.1).init(), &digits);
    Ok(())
}
