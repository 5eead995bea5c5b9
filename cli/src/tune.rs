//! `lion tune`: measures the fastest plans of this machine and writes its profile.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use lion_autotune::candidate::describe;
use lion_autotune::profile::{can_write, user_path, write};
use lion_autotune::{
    Dtypes, Error, Level, Machine, Operation, Progress, Tuner, TuningLog, TuningResult, report,
};

use crate::error::{CliError, print_error};
use crate::interrupt::Interrupt;
use crate::seconds;

/// Measures which plans are fastest on this machine, and writes its profile. Affects speed only, never results
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How much to measure: estimate (nothing), quick (50 s), measure (5 min) or patient (30 min)
    #[arg(long, default_value_t)]
    level: Level,
    /// The time limit of the measurements in seconds; default: the level's
    #[arg(long, value_name = "S", value_parser = seconds)]
    time_limit: Option<Duration>,
    /// The operations to tune: step, statistics, accumulate, average, convert; default: all
    #[arg(long, value_name = "OP,...", value_delimiter = ',')]
    ops: Vec<Operation>,
    /// The formats to tune: parameter/gradient/momentum, or one for all three; default: the usual ones
    #[arg(long, value_name = "P/G/M,...", value_delimiter = ',')]
    dtypes: Vec<Dtypes>,
    /// The maximum number of threads of a plan; default: all that this process may use
    #[arg(long, value_name = "N", value_parser = crate::threads)]
    threads: Option<NonZeroUsize>,
    /// The seed of the random order of measurements
    #[arg(long, value_name = "N", default_value_t)]
    seed: u64,
    /// The profile to write; default: the user's profile, which the library reads
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    output: Option<PathBuf>,
    /// Prints the profile and writes no file
    #[arg(long)]
    dry_run: bool,
    /// Prints the profile and every measurement as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let output = match (&arguments.output, arguments.dry_run) {
        (_, true) => None,
        (Some(path), _) => Some(path.clone()),
        (None, _) => Some(user_path().ok_or(Error::NoHome)?),
    };
    if let Some(path) = &output {
        can_write(path)?;
    }
    let result = tune(arguments)?;
    if result.stopped {
        let (done, kept) = (result.cases.len(), !arguments.dry_run);
        let then = if kept { "the same command continues from there" } else { "nothing is kept" };
        return Err(CliError::Input(format!("stopped after {done} cases; {then}")));
    }
    print(arguments, &result)?;
    if let Some(path) = &output {
        write(&result.document, path)?;
        print_error(&format!("wrote {}", path.display()));
    }
    Ok(())
}

fn tune(arguments: &Arguments) -> Result<TuningResult, CliError> {
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
        tuner = tuner.log(open_log());
    }
    let interrupt = Interrupt::listen();
    let bar = crate::progress(tuner.cases().len(), "{bar:30} {pos}/{len} {msg}");
    let result = tuner.run(|progress| {
        bar.set_position(progress.done as u64);
        bar.set_message(message(progress));
        if interrupt.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    Ok(result?)
}

/// Opens the user's log. If that fails, the tuning is as good, but cannot be continued after it is stopped.
fn open_log() -> TuningLog {
    let opened = match TuningLog::user_path() {
        Some(path) => TuningLog::open(&path),
        None => Err(Error::NoHome),
    };
    opened.unwrap_or_else(|error| {
        print_error(&format!("warning: the measurements are not logged: {error}"));
        TuningLog::none()
    })
}

fn print(arguments: &Arguments, result: &TuningResult) -> Result<(), CliError> {
    let text = if arguments.json {
        let value = serde_json::json!({ "profile": result.document, "findings": result.cases });
        format!("{value:#}\n")
    } else if arguments.dry_run {
        result.document.to_toml()?
    } else {
        report::plans(&result.document)
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(CliError::Output)
}

fn message(progress: &Progress<'_>) -> String {
    let left = progress.time_limit.saturating_sub(progress.elapsed).as_secs();
    let last = progress.last.map(|it| {
        let gain = (it.gain() * 100.0).round();
        format!("; {}: {}, {gain} % saved", it.case, describe(&it.plan))
    });
    format!("{}, {left} s left{}", progress.case, last.unwrap_or_default())
}
