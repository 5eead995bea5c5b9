//! `lion doctor`: what the optimizer finds on this machine.

use std::io::Write as _;

use lion_autotune::report;

use crate::failure::Failure;

/// Says what the optimizer finds on this machine: processor, backends, huge pages, cores, environment, profile.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_: &Arguments) -> Result<(), Failure> {
    std::io::stdout().write_all(report::doctor().as_bytes()).map_err(Failure::Output)
}
