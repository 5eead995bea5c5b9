//! `lion profile verify`: measures whether the plans of a profile are still the fastest.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use lion_autotune::measure::MachineBench;
use lion_autotune::{MIN_ROUNDS, Machine, report, text, verify};

use super::{in_use, print};
use crate::error::CliError;
use crate::seconds;

/// Times the plans of a profile again, against all other candidates and the default
///
/// Prints the regret of each plan as a Markdown table. The exit status is 1 if a plan is slower than promised by more than
/// the noise.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The profile; default: the one that the library uses
    file: Option<PathBuf>,
    /// The time limit in seconds
    #[arg(long, value_name = "S", value_parser = seconds, default_value = "300")]
    time_limit: Duration,
    /// The maximum number of rounds in which candidates are compared, at least 5
    #[arg(long, value_name = "N", value_parser = rounds, default_value_t = 300)]
    rounds: usize,
    /// Prints the command and the machine above the table, as the files in benches/results have them
    #[arg(long)]
    markdown: bool,
}

fn rounds(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number >= MIN_ROUNDS);
    number.ok_or_else(|| format!("expected a number from {MIN_ROUNDS} to {}", usize::MAX))
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let (name, document) = in_use(arguments.file.as_deref())?;
    let Some(document) = document else {
        return Err(CliError::Input(format!("{name}: no profile file is in use; lion tune makes one")));
    };
    let machine = Machine::detect();
    document.fit(&machine).map_err(|error| CliError::Input(format!("{name}: {error}")))?;
    let mut bench = MachineBench::new(&machine);
    let (rounds, limit) = (arguments.rounds, arguments.time_limit);
    let found = verify(&mut bench, &machine, &document, rounds, limit, |_, _| ControlFlow::Continue(()))?;
    if arguments.markdown {
        print(&format!(
            "# Regret of the tuned plans\n\n\
             - Command: `lion tune --level {}`, then `lion profile verify --time-limit {} --markdown`\n\
             - Machine: {} ({}), {} cores, {} of last-level cache; {}, huge pages: {}\n\
             - Times are geometric means over warm and cold caches. Ratios compare times taken in the same rounds; each \
             has a 95 % confidence interval.\n\n",
            document.level,
            limit.as_secs(),
            machine.name(),
            machine.microarchitecture(),
            machine.cores,
            text::known_bytes(machine.last_level()),
            machine.os,
            text::known(&machine.huge_pages)
        ))?;
    }
    print(&report::regrets(&found))?;
    let failed = found.iter().filter(|it| !it.holds()).count();
    let missing = document.entries.len() - found.len();
    if failed + missing == 0 {
        return Ok(());
    }
    Err(CliError::Input(format!(
        "{name}: {failed} of {} plans are slower than promised, {missing} were not measured in time",
        document.entries.len()
    )))
}
