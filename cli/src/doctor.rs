//! `lion doctor`: prints what the optimizer finds on this machine.

use std::io::Write as _;

use lion_autotune::report;

use crate::error::CliError;

/// Prints what the optimizer finds on this machine: processor, backends, huge pages, cores, environment, profile
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_: &Arguments) -> Result<(), CliError> {
    std::io::stdout().write_all(report::doctor().as_bytes()).map_err(CliError::Output)
}
