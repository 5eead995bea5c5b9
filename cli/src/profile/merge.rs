//! `lion profile merge`: combines profiles, such as those of different operations.

use std::path::PathBuf;

use lion_autotune::profile::write;

use super::read;
use crate::error::CliError;

/// Combines profiles of one machine. If several have a plan for the same case, the last one wins
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The profiles
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let mut files = arguments.files.iter();
    let Some(first) = files.next() else { return Ok(()) };
    let mut merged = read(first)?;
    for path in files {
        let next = read(path)?;
        next.fit(&merged.machine).map_err(|error| CliError::in_file(path, error))?;
        let is_replaced = |case| next.entries.iter().any(|entry| entry.case() == case);
        merged.entries.retain(|entry| !is_replaced(entry.case()));
        merged.entries.extend(next.entries);
    }
    merged.entries.sort_by_key(|entry| entry.case());
    Ok(write(&merged, &arguments.output)?)
}
