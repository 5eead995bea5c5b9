//! The `lion` command: `lion replay` applies the optimizer to a recorded run, `lion bench` times it beside the
//! streaming limit, `lion checkpoint` makes one file of a sharded checkpoint and the other way, `lion doctor` says what it
//! finds on this machine; `lion tune`, `lion profile` and `lion report`
//! measure which plans are fastest on it, keep them, and draw what was measured.
//!
//! It ends with 0; with 1 where its input is bad or the system refuses what it needs, and one line on stderr says which
//! file, which tensor and why; with 2 where it is called in a wrong way.

mod bench;
mod checkpoint;
mod doctor;
mod failure;
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

use crate::failure::Failure;

/// The Lion optimizer of Keras, with the same bits on every machine.
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
    failure::say_warnings();
    output::refuse_large_files();
    // Ends the process itself for --help and for bad usage, with 0 and with 2.
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
        Err(failure) => failure.report(),
    }
}

/// A backend that this machine has, by name.
fn backend(name: &str) -> Result<Backend, String> {
    Backend::from_name(name).map_err(|error| error.to_string())
}

/// The backend of `--isa`, or else that of the environment.
fn backend_or_env(named: Option<Backend>) -> Result<Backend, Failure> {
    let from_env = || Backend::from_env().map_err(|error| Failure::Usage(format!("LION_ISA: {error}")));
    named.map_or_else(from_env, Ok)
}

/// A number of threads that a machine may have.
fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let number: Option<NonZeroUsize> = text.parse().ok();
    number.filter(|number| number.get() <= 1024).ok_or_else(|| "must be a number from 1 to 1024".into())
}

/// How long something may take.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: Option<f64> = text.parse().ok().filter(|seconds| (0.0..=1e6).contains(seconds));
    number.map(Duration::from_secs_f64).ok_or_else(|| "must be a number of seconds from 0 to 1000000".into())
}

/// The system may refuse threads, by a limit or for want of memory.
fn pool(threads: NonZeroUsize) -> Result<ThreadPool, Failure> {
    let built = ThreadPoolBuilder::new().num_threads(threads.get()).build();
    built.map_err(|error| Failure::Input(format!("no pool of {threads} threads: {error}")))
}

/// Shows nothing where stderr is not a terminal.
fn progress(steps: usize, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr_with_hz(5));
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
