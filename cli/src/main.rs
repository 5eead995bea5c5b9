//! The `lion` command: `lion replay` applies the optimizer to a recorded run, `lion doctor` says what it finds on this
//! machine.
//!
//! It ends with 0; with 1 where its input is bad, and one line on stderr says which file, which tensor and why; with 2
//! where it is called in a wrong way.

mod doctor;
mod failure;
mod replay;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The Lion optimizer of Keras, with the same bits on every machine.
#[derive(Debug, Parser)]
#[command(name = "lion", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Replay(replay::Arguments),
    Doctor(doctor::Arguments),
}

fn main() -> ExitCode {
    // Ends the process itself for --help and for bad usage, with 0 and with 2.
    let done = match Arguments::parse().command {
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
