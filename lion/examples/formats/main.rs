//! Compares dtypes of parameter and momentum on two classifiers of handwritten digits.
//!
//! Each is trained with four kinds of parameters and three of momentum, at a learning rate that bf16 rounded to nearest
//! loses. It also counts how often each momentum changes the sign of a step. It prints the tables of `docs/formats.md` and
//! draws its picture.
//!
//! ```text
//! cargo run --release --example formats -- docs/formats.svg
//! ```
//!
//! The numbers are the same on every machine and every backend.

mod codes;
#[path = "../digits/data.rs"]
mod data;
mod network;
mod picture;
#[path = "../digits/random.rs"]
mod random;

use std::error::Error;

use half::bf16;
use lion::{Dtype, Lion, TensorBuf, Update, VariableId};

use codes::CODES;
use data::{Digit, Digits};
use network::Network;
use random::Random;

const LEARNING_RATE: f64 = 1e-4;
const BETAS: [f32; 2] = [0.9, 0.99];
const WEIGHT_DECAY: f64 = 0.1;
const BATCH: usize = 32;
const EPOCHS: usize = 20;

/// The storage of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Parameter {
    F32,
    Nearest,
    Stochastic,
    Split,
}

const PARAMETERS: [(Parameter, &str); 4] = [
    (Parameter::F32, "f32"),
    (Parameter::Nearest, "bf16"),
    (Parameter::Stochastic, "bf16 stochastic"),
    (Parameter::Split, "bf16 split"),
];
const MOMENTA: [Dtype; 3] = [Dtype::F32, Dtype::BF16, Dtype::Q8];

/// The results of a training.
struct Run {
    name: String,
    /// The mean loss of each epoch.
    losses: Vec<f64>,
    accuracy: f64,
    /// The fraction of elements that the last checked step could not move.
    stalled: Option<f64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let digits = Digits::load()?;
    let mut panels = Vec::new();
    for network in [Network::dense(), Network::convolutional()] {
        let count: usize = network.variables().iter().map(|it| it.shape.iter().product::<usize>()).sum();
        println!("\n### {}, {count} parameters\n", network.name);
        println!("| parameter | momentum | last loss | held out | stalled |\n|---|---|---|---|---|");
        let mut runs = Vec::new();
        for (parameter, name) in PARAMETERS {
            for momentum in MOMENTA {
                let run = train(&network, &digits, parameter, momentum, &format!("{name}, {momentum}"))?;
                let (loss, accuracy) = (run.losses.last().copied().unwrap_or(f64::NAN), 100.0 * run.accuracy);
                let stalled = run.stalled.map_or("–".into(), |share| format!("{:.0} %", 100.0 * share));
                println!("| {name} | {momentum} | {loss:.4} | {accuracy:.1} % | {stalled} |");
                runs.push(run);
            }
        }
        print_signs(&network, &digits)?;
        panels.push((network.name, runs));
    }
    if let Some(path) = std::env::args_os().nth(1) {
        std::fs::write(path, picture::picture(&panels))?;
    }
    Ok(())
}

/// The batches of every epoch, the same in every training.
fn batches(digits: &[Digit], mut each: impl FnMut(&[&Digit])) {
    let mut random = Random::seeded(2);
    let mut order: Vec<&Digit> = digits.iter().collect();
    for _ in 0..EPOCHS {
        random.shuffle(&mut order);
        order.chunks(BATCH).for_each(&mut each);
    }
}

fn optimizer(momentum: Dtype) -> lion::Builder {
    let builder = Lion::builder().learning_rate(LEARNING_RATE).beta_1(f64::from(BETAS[0]));
    builder.beta_2(f64::from(BETAS[1])).weight_decay(WEIGHT_DECAY).momentum_dtype(momentum)
}

/// Trains with gradients in bf16.
fn train(
    network: &Network,
    digits: &Digits,
    parameter: Parameter,
    momentum: Dtype,
    name: &str,
) -> Result<Run, lion::Error> {
    let builder = match parameter {
        Parameter::F32 | Parameter::Nearest => optimizer(momentum),
        Parameter::Stochastic => optimizer(momentum).stochastic_rounding(1),
        Parameter::Split => optimizer(momentum).split_master(true),
    };
    let dtype = if parameter == Parameter::F32 { Dtype::F32 } else { Dtype::BF16 };
    let mut optimizer = builder.build()?;
    let mut values = network.initial(&mut Random::seeded(1));
    let mut stored = Vec::new();
    let mut ids = Vec::new();
    for (variable, values) in network.variables().iter().zip(&values) {
        let id = optimizer.register(&variable.name, &variable.shape, dtype)?;
        let mut tensor = TensorBuf::zeroed(dtype, values.len())?;
        optimizer.parameter_from_f32(id, values, tensor.to_mut())?;
        ids.push(id);
        stored.push(tensor);
    }
    let mut losses = Vec::new();
    let (mut loss, mut seen, mut stalled, mut failed) = (0.0, 0, None, None);
    batches(&digits.training, |batch| {
        // The network computes with the model's bf16 weights: for a split parameter with the high halves.
        let read = |(tensor, values): (&TensorBuf, &mut Vec<f32>)| *values = tensor.to_ref().to_f32();
        stored.iter().zip(&mut values).for_each(read);
        let (of_batch, gradients) = network.backward(&values, batch);
        (loss, seen) = (loss + of_batch, seen + batch.len());
        match step(&mut optimizer, &ids, &mut stored, &gradients) {
            Ok(metrics) => stalled = metrics.stalled_fraction.or(stalled),
            Err(error) => failed = Some(error),
        }
        if seen == digits.training.len() {
            losses.push(loss / seen as f64);
            (loss, seen) = (0.0, 0);
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let accuracy = network.accuracy(&values, &digits.held_out);
    // Only parameters that are rounded to nearest can stall.
    let stalled = stalled.filter(|_| parameter == Parameter::Nearest);
    Ok(Run { name: name.into(), losses, accuracy, stalled })
}

fn step(
    optimizer: &mut Lion,
    ids: &[VariableId],
    stored: &mut [TensorBuf],
    gradients: &[Vec<f32>],
) -> Result<lion::Metrics, lion::Error> {
    let gradients: Vec<Vec<bf16>> =
        gradients.iter().map(|values| values.iter().copied().map(bf16::from_f32).collect()).collect();
    let tensors = ids.iter().zip(stored).zip(&gradients);
    let mut updates: Vec<_> =
        tensors.map(|((id, tensor), gradient)| Update::new(*id, tensor.to_mut(), gradient)).collect();
    optimizer.apply(&mut updates)
}

/// Rounds values to a dtype.
type Keep = Box<dyn Fn(&mut [f32])>;

/// A momentum that is rounded to its dtype after each step.
struct Tracked {
    name: String,
    keep: Keep,
    momentum: Vec<Vec<f32>>,
    /// The number of element steps whose sign differs from f32's.
    turned: u64,
}

impl Tracked {
    fn of_dtype(dtype: Dtype) -> Self {
        let keep = Box::new(move |values: &mut [f32]| dtype.round(values));
        Tracked { name: dtype.to_string(), keep, momentum: Vec::new(), turned: 0 }
    }
}

/// Returns how often the sign of `c` differs from f32's, on the gradients of the f32 training.
fn print_signs(network: &Network, digits: &Digits) -> Result<(), lion::Error> {
    let others = CODES.iter().map(|code| Tracked {
        name: code.name.into(),
        keep: Box::new(|values: &mut [f32]| code.kept(values)),
        momentum: Vec::new(),
        turned: 0,
    });
    let mut tracked: Vec<Tracked> = MOMENTA.map(Tracked::of_dtype).into_iter().chain(others).collect();
    let mut optimizer = optimizer(Dtype::F32).build()?;
    let mut values = network.initial(&mut Random::seeded(1));
    let mut ids = Vec::new();
    for variable in network.variables() {
        ids.push(optimizer.register(&variable.name, &variable.shape, Dtype::F32)?);
    }
    for tracked in &mut tracked {
        tracked.momentum = values.iter().map(|values| vec![0.0; values.len()]).collect();
    }
    let (mut steps, mut failed) = (0_u64, None);
    batches(&digits.training, |batch| {
        let (_, gradients) = network.backward(&values, batch);
        let mut signs: Vec<i8> = Vec::new();
        for (index, tracked) in tracked.iter_mut().enumerate() {
            let mut place = 0;
            for (momentum, gradient) in tracked.momentum.iter_mut().zip(&gradients) {
                for (m, g) in momentum.iter_mut().zip(gradient) {
                    let direction = *m * BETAS[0] + g * (1.0 - BETAS[0]);
                    *m = *m * BETAS[1] + g * (1.0 - BETAS[1]);
                    let sign = i8::from(direction > 0.0) - i8::from(direction < 0.0);
                    match index {
                        0 => signs.push(sign),
                        _ => tracked.turned += u64::from(sign != signs[place]),
                    }
                    place += 1;
                }
                (tracked.keep)(momentum);
            }
        }
        steps += signs.len() as u64;
        let tensors = ids.iter().zip(&mut values).zip(&gradients);
        let mut updates: Vec<_> = tensors.map(|((id, p), g)| Update::new(*id, p, g)).collect();
        if let Err(error) = optimizer.apply(&mut updates) {
            failed = Some(error);
        }
    });
    println!("\n| momentum | signs that differ from f32's |\n|---|---|");
    for tracked in tracked.iter().skip(1) {
        println!("| {} | {:.2} % |", tracked.name, 100.0 * tracked.turned as f64 / steps as f64);
    }
    match failed {
        None => Ok(()),
        Some(error) => Err(error),
    }
}
