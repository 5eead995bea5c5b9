//! Shared code of the peers: the protocol, and the check of a peer's steps.
//!
//! A peer is a process that reads commands from standard input and answers each with one line:
//!
//! | line | answer |
//! |---|---|
//! | `prepare N` | `ok` when tensors of N elements are ready and three steps on them gave the expected parameter |
//! | `time N` | the seconds that N steps took, after N / 10 untimed steps |
//! | `release` | `ok` when the tensors are freed |
//!
//! If a command fails, the answer is `error` and the reason. `python/protocol.py` is the Python implementation.

mod check;

pub use check::{adamw, lion, stream};

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

/// The learning rate of every peer.
pub const LEARNING_RATE: f64 = 1e-4;
/// The momentum's weight in the sign. In AdamW, the decay rate of the first moment.
pub const BETA_1: f64 = 0.9;
/// The momentum's decay rate. In AdamW, the decay rate of the second moment.
pub const BETA_2: f64 = 0.99;

/// The error of a peer.
pub type Failure = Box<dyn Error>;

/// An optimizer with one f32 parameter, its gradient and its state.
pub trait Peer: Sized {
    /// Returns the expected parameter after three steps, the first with gradient `first`, the others with `then`.
    const EXPECTED: fn(parameter: f32, first: f32, then: f32) -> f32;

    /// Creates the optimizer with a state of zeros.
    fn new(parameter: Vec<f32>, gradient: Vec<f32>) -> Result<Self, Failure>;

    /// Replaces the gradient.
    fn set_gradient(&mut self, gradient: Vec<f32>) -> Result<(), Failure>;

    /// Takes one step.
    fn step(&mut self) -> Result<(), Failure>;

    /// Returns the current parameter.
    fn parameter(&self) -> Result<Vec<f32>, Failure>;
}

/// Answers the lines of standard input until it ends.
///
/// # Errors
/// Returns an error if standard input or output is closed. A peer's errors become answers.
pub fn serve<P: Peer>() -> Result<(), Failure> {
    let mut ready: Option<P> = None;
    for line in std::io::stdin().lock().lines() {
        let answer = answer(&mut ready, &line?).unwrap_or_else(|failure| format!("error {failure}"));
        let mut output = std::io::stdout().lock();
        writeln!(output, "{}", answer.replace('\n', " "))?;
        output.flush()?;
    }
    Ok(())
}

fn answer<P: Peer>(ready: &mut Option<P>, line: &str) -> Result<String, Failure> {
    let (word, number) = line.split_once(' ').unwrap_or((line, "0"));
    let number: usize = number.parse()?;
    match (word, ready.as_mut()) {
        ("prepare", _) => {
            *ready = None;
            *ready = Some(check::prepare(number)?);
            Ok("ok".into())
        }
        ("time", Some(peer)) => Ok(time(peer, number)?.to_string()),
        ("release", _) => {
            *ready = None;
            Ok("ok".into())
        }
        _ => Err(format!("no answer to {line:?}").into()),
    }
}

fn time<P: Peer>(peer: &mut P, steps: usize) -> Result<f64, Failure> {
    for _ in 0..steps.div_ceil(10) {
        peer.step()?;
    }
    let start = Instant::now();
    for _ in 0..steps {
        peer.step()?;
    }
    Ok(start.elapsed().as_secs_f64())
}
