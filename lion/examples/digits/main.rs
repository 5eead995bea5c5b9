//! Trains a classifier of handwritten digits in f32 and in bf16. It prints the accuracy and the time of a step, and checks
//! that every weight has the bits that the scalar reference computes.
//!
//! ```text
//! cargo run --release --example digits
//! LION_ISA=scalar cargo run --release --example digits
//! ```
//!
//! The digests that it prints are the same on every machine and every backend.

mod console;
mod data;
mod network;
mod optimizer;
mod random;
mod storage;
mod training;

use std::error::Error;
use std::process::ExitCode;

use half::bf16;
use lion::Lion;

use console::Console;
use data::Digits;
use network::{Tensors, VARIABLES};
use optimizer::{LEARNING_RATE, Library, Reference, WEIGHT_DECAY};
use storage::Storage;
use training::{BATCH, EPOCHS, Event, accuracy, train};

/// The held-out accuracy, in percent, below which the f32 training has failed.
const LEAST_ACCURACY: f32 = 96.0;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("digits: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let digits = Digits::load()?;
    // Two dtypes, each trained by the library and by the reference.
    let console = Console::new(2 * 2 * EPOCHS * digits.training.len().div_ceil(BATCH))?;
    let backend = Lion::builder().build()?.backend();

    console.line(format_args!("Lion on handwritten digits, by the backend {backend}"))?;
    console.line(format_args!(
        "  {} images to train on, {} held out; a 64-128-10 network of {} parameters",
        digits.training.len(),
        digits.held_out.len(),
        parameter_count()
    ))?;
    console.line(format_args!(
        "  {EPOCHS} epochs in batches of {BATCH}; learning rate {LEARNING_RATE}, weight decay {WEIGHT_DECAY}"
    ))?;
    console.draw(digits.training.get(..4).unwrap_or_default())?;

    let in_f32 = demonstrate::<f32>(&digits, &console)?;
    let in_bf16 = demonstrate::<bf16>(&digits, &console)?;
    console.finish();

    if !(in_f32.identical && in_bf16.identical) {
        return Err("the trained weights differ from the reference's".into());
    }
    if in_f32.accuracy < LEAST_ACCURACY {
        return Err(format!("the f32 training reached less than {LEAST_ACCURACY} %").into());
    }
    Ok(())
}

struct Outcome {
    /// On the held-out digits, in percent.
    accuracy: f32,
    /// Whether library and reference trained the same weights.
    identical: bool,
}

/// Trains with parameters, gradients and momentum in one dtype, by the library and by the reference, and reports.
fn demonstrate<T: Storage>(digits: &Digits, console: &Console) -> Result<Outcome, Box<dyn Error>> {
    console.line(format_args!("\n{} parameters, gradients and momentum", T::DTYPE))?;
    console.begin(format!("{}, by the library", T::DTYPE));
    let mut library = Library::new::<T>()?;
    let trained: Tensors<T> = train(digits, &mut library, |event| {
        match event {
            Event::Batch => console.advance(),
            Event::Epoch { number, loss, accuracy } => {
                console
                    .line(format_args!("  epoch {number:2}   loss {loss:.4}   held out {accuracy:5.2} %"))?;
            }
        }
        Ok(())
    })?;

    console.begin(format!("{}, by the reference", T::DTYPE));
    let mut reference = Reference::new();
    let expected: Tensors<T> = train(digits, &mut reference, |event| {
        if let Event::Batch = event {
            console.advance();
        }
        Ok(())
    })?;
    report(digits, console, &library, &trained, &expected)
}

fn report<T: Storage>(
    digits: &Digits,
    console: &Console,
    library: &Library,
    trained: &Tensors<T>,
    expected: &Tensors<T>,
) -> Result<Outcome, Box<dyn Error>> {
    let accuracy = accuracy(trained, &digits.held_out);
    let difference = first_difference(trained, expected);
    let time = library.step_time();
    // Parameter and momentum are read and written, the gradient is read.
    let bytes = 5 * T::DTYPE.size() * parameter_count();

    console.line("")?;
    console.line(format_args!("  accuracy   {accuracy:.2} % of the held-out digits"))?;
    console.line(format_args!(
        "  speed      {:.1} GB/s: {:.2} µs a step, the median of {}",
        bytes as f64 / time.as_secs_f64() / 1e9,
        time.as_secs_f64() * 1e6,
        library.steps()
    ))?;
    console.line(match &difference {
        None => "  weights    bit-identical to the same training by the scalar reference".into(),
        Some(place) => {
            format!("  weights    NOT those of the same training by the scalar reference: {place}")
        }
    })?;
    console.line(format_args!("  digest     {:016x}", digest(trained)))?;
    Ok(Outcome { accuracy, identical: difference.is_none() })
}

/// Returns the first weight whose bits differ from the expected ones.
fn first_difference<T: Storage>(found: &Tensors<T>, expected: &Tensors<T>) -> Option<String> {
    for ((name, _), (found, expected)) in VARIABLES.iter().zip(found.iter().zip(expected)) {
        for (index, (found, expected)) in bits(found).zip(bits(expected)).enumerate() {
            if found != expected {
                return Some(format!("{name}[{index}] is {found:08x} and not {expected:08x}"));
            }
        }
    }
    None
}

/// Returns FNV-1a over the bits of all weights, to compare machines and backends.
fn digest<T: Storage>(parameters: &Tensors<T>) -> u64 {
    parameters
        .iter()
        .flat_map(|tensor| bits(tensor))
        .flat_map(u32::to_le_bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Returns the bits of each element as f32, which is exact for 16-bit dtypes.
fn bits<T: Storage>(tensor: &[T]) -> impl Iterator<Item = u32> {
    tensor.iter().map(|&value| value.into().to_bits())
}

fn parameter_count() -> usize {
    VARIABLES.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}
