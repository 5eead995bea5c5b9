//! Trains a small convolutional network on handwritten digits, with candle's AdamW and then with Lion: `cargo run
//! --release -p lion-candle --example candle_digits`.

#[path = "../../../lion/examples/digits/data.rs"]
mod data;
#[path = "../../../lion/examples/digits/random.rs"]
mod random;

use std::error::Error;
use std::time::{Duration, Instant};

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{
    AdamW, Conv2d, Conv2dConfig, Linear, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap, conv2d, linear,
    loss,
};
use data::{CLASSES, Digit, Digits, PIXELS};
use lion_candle::Lion;
use random::Random;

const EPOCHS: usize = 12;
const BATCH: usize = 32;

struct Network {
    first: Conv2d,
    second: Conv2d,
    output: Linear,
}

impl Network {
    fn new(variables: VarBuilder<'_>) -> Result<Self> {
        let config = Conv2dConfig { padding: 1, ..Default::default() };
        Ok(Network {
            first: conv2d(1, 8, 3, config, variables.pp("first"))?,
            second: conv2d(8, 16, 3, config, variables.pp("second"))?,
            output: linear(16 * 2 * 2, CLASSES, variables.pp("output"))?,
        })
    }

    /// Returns a score for each digit. The images are 8 × 8 pixels, and are halved twice.
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let hidden = self.first.forward(images)?.relu()?.max_pool2d(2)?;
        let hidden = self.second.forward(&hidden)?.relu()?.max_pool2d(2)?;
        self.output.forward(&hidden.flatten_from(1)?)
    }

    /// Returns the accuracy in percent.
    fn accuracy(&self, digits: &[Digit]) -> Result<f32> {
        let (images, labels) = tensors(&digits.iter().collect::<Vec<_>>())?;
        let right = self.forward(&images)?.argmax(D::Minus1)?.eq(&labels)?;
        Ok(100.0 * right.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?)
    }
}

fn tensors(digits: &[&Digit]) -> Result<(Tensor, Tensor)> {
    let pixels: Vec<f32> = digits.iter().flat_map(|digit| digit.pixels).collect();
    let labels: Vec<u32> = digits.iter().map(|digit| digit.label as u32).collect();
    let images = Tensor::from_vec(pixels, (digits.len(), PIXELS), &Device::Cpu)?;
    Ok((images.reshape((digits.len(), 1, 8, 8))?, Tensor::new(labels, &Device::Cpu)?))
}

/// Creates the same network for every optimizer. candle's random numbers cannot be seeded on the CPU.
fn network() -> Result<(VarMap, Network)> {
    let map = VarMap::new();
    let network = Network::new(VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu))?;
    let mut random = Random::seeded(1);
    let mut variables: Vec<_> =
        map.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    variables.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (_, var) in variables {
        // Weights get a bound that keeps the variance (He et al., 2015). A bias has one axis, and is zero.
        let inputs: usize = var.dims().iter().skip(1).product();
        let bound = if var.rank() > 1 { (6.0 / inputs as f32).sqrt() } else { 0.0 };
        let values: Vec<f32> = (0..var.elem_count()).map(|_| bound * random.uniform()).collect();
        var.set(&Tensor::from_vec(values, var.dims(), &Device::Cpu)?)?;
    }
    Ok((map, network))
}

/// Trains the network, and returns the optimizer's median step time.
fn train(network: &Network, mut optimizer: impl Optimizer, digits: &Digits) -> Result<Duration> {
    let mut random = Random::seeded(2);
    let mut order: Vec<&Digit> = digits.training.iter().collect();
    let mut times = Vec::new();
    for _ in 0..EPOCHS {
        random.shuffle(&mut order);
        for batch in order.chunks(BATCH) {
            let (images, labels) = tensors(batch)?;
            let loss = loss::cross_entropy(&network.forward(&images)?, &labels)?;
            let gradients = loss.backward()?;
            let start = Instant::now();
            optimizer.step(&gradients)?;
            times.push(start.elapsed());
        }
    }
    times.sort();
    Ok(times[times.len() / 2])
}

fn report(name: &str, network: &Network, digits: &Digits, time: Duration) -> Result<()> {
    println!("{name:>6}: {:.2} % right, {time:.1?} a step", network.accuracy(&digits.held_out)?);
    Ok(())
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let digits = Digits::load()?;

    let (map, model) = network()?;
    let optimizer = AdamW::new(map.all_vars(), ParamsAdamW { lr: 0.005, ..Default::default() })?;
    report("AdamW", &model, &digits, train(&model, optimizer, &digits)?)?;

    let (map, model) = network()?;
    let optimizer = Lion::from_varmap(&map, Lion::builder().learning_rate(0.001).weight_decay(0.1))?;
    report("Lion", &model, &digits, train(&model, optimizer, &digits)?)?;
    Ok(())
}
