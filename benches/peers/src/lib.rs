//! What the peers share: the tensors, the steps that show that a peer computes what it says, and the protocol.
//!
//! A peer is a process that answers lines on its standard input, one line for each:
//!
//! | line | answer |
//! |---|---|
//! | `prepare N` | `ok` when tensors of N elements stand ready and three steps on them gave the right parameter |
//! | `time N` | the seconds that N steps took, after a tenth as many that are not timed |
//! | `release` | `ok` when the tensors are gone |
//!
//! An answer that starts with `error` says why there is none. `python/protocol.py` is the same for Python.

mod check;

pub use check::{adamw, lion, stream};

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

/// The learning rate of every peer.
pub const LEARNING_RATE: f64 = 1e-4;
/// How much of the momentum goes into the sign; of AdamW, into the mean of the gradients.
pub const BETA_1: f64 = 0.9;
/// How much of the momentum stays.
pub const BETA_2: f64 = 0.99;

/// What goes wrong in a peer.
pub type Failure = Box<dyn Error>;

/// An optimizer with one parameter of f32, its gradient and its state.
pub trait Peer: Sized {
    /// The parameter after three steps, of which the first has one gradient and the others another.
    const EXPECTED: fn(parameter: f32, first: f32, then: f32) -> f32;

    /// Starts with a state of zeros.
    fn new(parameter: Vec<f32>, gradient: Vec<f32>) -> Result<Self, Failure>;

    /// Takes another gradient.
    fn set_gradient(&mut self, gradient: Vec<f32>) -> Result<(), Failure>;

    /// One step.
    fn step(&mut self) -> Result<(), Failure>;

    /// The parameter as it is now.
    fn parameter(&self) -> Result<Vec<f32>, Failure>;
}

/// Answers lines until there are no more.
///
/// # Errors
/// Where standard input or output is closed; a peer's failures are answers.
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
