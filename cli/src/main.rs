//! The `lion` command.
//!
//! - `lion replay` applies the optimizer to a recorded run.
//! - `lion bench` times steps and compares them with the bandwidth bound.
//! - `lion tune`, `lion profile` and `lion report` measure the fastest plans of a machine, manage their files, and draw the
//!   measurements.
//! - `lion checkpoint` merges and splits sharded checkpoints.
//! - `lion doctor` prints what the optimizer finds on this machine.
//!
//! The exit status is 0 for success. It is 1 for bad input, or if the system refuses a resource; one line on stderr then
//! names the file, the tensor and the reason. It is 2 for bad usage.

mod bench;
mod checkpoint;
mod doctor;
mod error;
mod interrupt;
mod output;
mod profile;
mod replay;
mod report;
mod tune;

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lion::Backend;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::CliError;

/// The Lion optimizer of Keras, with the same bits on every machine
#[derive(Debug, Parser)]
#[command(name = "lion", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Replay(Box<replay::Arguments>),
    Bench(bench::Arguments),
    Checkpoint(checkpoint::Arguments),
    Doctor(doctor::Arguments),
    Tune(tune::Arguments),
    Profile(profile::Arguments),
    Report(report::Arguments),
}

fn main() -> ExitCode {
    error::print_warnings();
    output::refuse_large_files();
    // `parse` exits by itself: with 0 for --help, with 2 for bad usage.
    let done = match Arguments::parse().command {
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Checkpoint(arguments) => checkpoint::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Tune(arguments) => tune::run(&arguments),
        Command::Profile(arguments) => profile::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

/// Parses `--isa`: a backend that this machine has.
fn backend(name: &str) -> Result<Backend, String> {
    Backend::from_name(name).map_err(|error| error.to_string())
}

/// Returns the backend of `--isa`, or the environment's.
fn backend_or_env(named: Option<Backend>) -> Result<Backend, CliError> {
    let from_env = || Backend::from_env().map_err(|error| CliError::Usage(format!("LION_ISA: {error}")));
    named.map_or_else(from_env, Ok)
}

/// Parses a number of threads.
fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let number: Option<NonZeroUsize> = text.parse().ok();
    number.filter(|number| number.get() <= 1024).ok_or_else(|| "expected a number from 1 to 1024".into())
}

/// Parses a duration in seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: Option<f64> = text.parse().ok().filter(|seconds| (0.0..=1e6).contains(seconds));
    number.map(Duration::from_secs_f64).ok_or_else(|| "expected a number of seconds from 0 to 1000000".into())
}

/// Builds a thread pool. The system may refuse threads because of a limit, or for lack of memory.
fn pool(threads: NonZeroUsize) -> Result<ThreadPool, CliError> {
    let built = ThreadPoolBuilder::new().num_threads(threads.get()).build();
    built.map_err(|error| CliError::Input(format!("cannot start {threads} threads: {error}")))
}

/// Returns a progress bar, which is hidden if stderr is not a terminal.
fn progress(steps: usize, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr_with_hz(5));
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
