//! `lion tune`: the plans for this machine.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use lion_autotune::candidate::describe;
use lion_autotune::profile::{can_write, user_path, write};
use lion_autotune::{Dtypes, Error, Journal, Level, Machine, Operation, Progress, Tuned, Tuner, report};

use crate::failure::{Failure, say};
use crate::interrupt::Interrupt;
use crate::seconds;

/// Measures which plans are fastest on this machine, and writes them as its profile. Changes no bit of any result.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How much is measured: estimate (nothing), quick (50 s), measure (5 min) or patient (30 min)
    #[arg(long, default_value_t)]
    level: Level,
    /// The most seconds that measuring takes; without this, the level's
    #[arg(long, value_name = "S", value_parser = seconds)]
    time_limit: Option<Duration>,
    /// What is tuned: step, statistics, accumulate, average, convert; all unless given
    #[arg(long, value_name = "OP,...", value_delimiter = ',')]
    ops: Vec<Operation>,
    /// In which formats: parameter/gradient/momentum, or one for all three
    #[arg(long, value_name = "P/G/M,...", value_delimiter = ',')]
    dtypes: Vec<Dtypes>,
    /// The most threads of a plan; without this, all that this process may use
    #[arg(long, value_name = "N", value_parser = crate::threads)]
    threads: Option<NonZeroUsize>,
    /// What the order of measurement is drawn from
    #[arg(long, value_name = "N", default_value_t)]
    seed: u64,
    /// Where the profile goes; without this, where the library looks for the user's
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    output: Option<PathBuf>,
    /// Prints the profile and writes nothing, so that there is no --output beside it
    #[arg(long)]
    dry_run: bool,
    /// Prints the profile and every measurement as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let output = match (&arguments.output, arguments.dry_run) {
        (_, true) => None,
        (Some(path), _) => Some(path.clone()),
        (None, _) => Some(user_path().ok_or(Error::NoHome)?),
    };
    if let Some(path) = &output {
        can_write(path)?;
    }
    let tuned = tune(arguments)?;
    if tuned.stopped {
        let (done, kept) = (tuned.findings.len(), !arguments.dry_run);
        let then = if kept { "the same command goes on from there" } else { "nothing is kept" };
        return Err(Failure::Input(format!("stopped after {done} cases; {then}")));
    }
    print(arguments, &tuned)?;
    if let Some(path) = &output {
        write(&tuned.document, path)?;
        say(&format!("wrote {}", path.display()));
    }
    Ok(())
}

fn tune(arguments: &Arguments) -> Result<Tuned, Failure> {
    let mut tuner = Tuner::new(Machine::detect()).level(arguments.level).seed(arguments.seed);
    if let Some(limit) = arguments.time_limit {
        tuner = tuner.time_limit(limit);
    }
    if let Some(threads) = arguments.threads {
        tuner = tuner.threads(threads.get());
    }
    if !arguments.ops.is_empty() {
        tuner = tuner.operations(arguments.ops.iter().copied());
    }
    if !arguments.dtypes.is_empty() {
        tuner = tuner.dtypes(arguments.dtypes.iter().copied());
    }
    if !arguments.dry_run && arguments.level != Level::Estimate {
        tuner = tuner.journal(journal());
    }
    let interrupt = Interrupt::listen();
    let bar = crate::progress(tuner.cases().len(), "{bar:30} {pos}/{len} {msg}");
    let tuned = tuner.run(|progress| {
        bar.set_position(progress.done as u64);
        bar.set_message(message(progress));
        if interrupt.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    Ok(tuned?)
}

/// A tuning without a record is as good, but cannot be gone on with.
fn journal() -> Journal {
    let opened = match Journal::user_path() {
        Some(path) => Journal::open(&path),
        None => Err(Error::NoHome),
    };
    opened.unwrap_or_else(|error| {
        say(&format!("warning: no record of the measurements is kept: {error}"));
        Journal::none()
    })
}

fn print(arguments: &Arguments, tuned: &Tuned) -> Result<(), Failure> {
    let text = if arguments.json {
        let value = serde_json::json!({ "profile": tuned.document, "findings": tuned.findings });
        format!("{value:#}\n")
    } else if arguments.dry_run {
        tuned.document.to_toml()?
    } else {
        report::plans(&tuned.document)
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::Output)
}

fn message(progress: &Progress<'_>) -> String {
    let left = progress.time_limit.saturating_sub(progress.elapsed).as_secs();
    let last = progress.last.map(|it| {
        let gain = (it.gain() * 100.0).round();
        format!("; {}: {}, {gain} % saved", it.case, describe(&it.plan))
    });
    format!("{}, {left} s left{}", progress.case, last.unwrap_or_default())
}
