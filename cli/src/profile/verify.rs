//! `lion profile verify`: whether the plans are as fast as they were.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use lion_autotune::measure::Scratch;
use lion_autotune::{LEAST_ROUNDS, Machine, report, verify};

use super::{in_use, print};
use crate::failure::Failure;
use crate::seconds;

/// Times the plans of a profile anew, against all other candidates and against the default, and prints the regret of
/// each as a table in Markdown. Ends with 1 where a plan is slower than promised, by more than the noise.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The profile; without this, the one that the library uses
    file: Option<PathBuf>,
    /// The most seconds that it takes
    #[arg(long, value_name = "S", value_parser = seconds, default_value = "300")]
    time_limit: Duration,
    /// The most rounds in which candidates are compared, at least 5
    #[arg(long, value_name = "N", value_parser = rounds, default_value_t = 300)]
    rounds: usize,
    /// Names the machine and the command above the table, as a file of results does
    #[arg(long)]
    markdown: bool,
}

fn rounds(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number >= LEAST_ROUNDS);
    number.ok_or_else(|| format!("must be a number from {LEAST_ROUNDS} to {}", usize::MAX))
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (name, document) = in_use(arguments.file.as_deref())?;
    let Some(document) = document else {
        return Err(Failure::Input(format!("{name}: no profile's file is in use; lion tune makes one")));
    };
    let machine = Machine::detect();
    document.fit(&machine).map_err(|error| Failure::Input(format!("{name}: {error}")))?;
    let mut rig = Scratch::new(&machine);
    let (rounds, limit) = (arguments.rounds, arguments.time_limit);
    let found = verify(&mut rig, &machine, &document, rounds, limit, |_, _| ControlFlow::Continue(()))?;
    if arguments.markdown {
        print(&format!(
            "# Regret of the tuned plans\n\n\
             - Command: `lion tune --level {}`, then `lion profile verify --time-limit {} --markdown`\n\
             - Machine: {} ({}), {} cores, {} of last-level cache; {}, huge pages: {}\n\
             - Times are geometric means over warm and cold caches; ratios are of times taken in the same rounds, with \
             an interval of 95 % confidence.\n\n",
            document.level,
            limit.as_secs(),
            machine.name(),
            machine.microarchitecture(),
            machine.cores,
            report::known_bytes(machine.last_level()),
            machine.os,
            report::known(&machine.huge_pages)
        ))?;
    }
    print(&report::regrets(&found))?;
    let failed = found.iter().filter(|it| !it.holds()).count();
    let missing = document.entries.len() - found.len();
    if failed + missing == 0 {
        return Ok(());
    }
    Err(Failure::Input(format!(
        "{name}: {failed} of {} plans are slower than promised, {missing} were not measured in time",
        document.entries.len()
    )))
}
