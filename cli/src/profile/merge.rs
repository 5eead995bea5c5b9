//! `lion profile merge`: one profile of several, such as of tunings of different operations.

use std::path::PathBuf;

use lion_autotune::profile::write;

use super::read;
use crate::failure::Failure;

/// Puts profiles of one machine together. Where several have a plan for the same, the last one's is taken.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The profiles
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where the result goes
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut files = arguments.files.iter();
    let Some(first) = files.next() else { return Ok(()) };
    let mut merged = read(first)?;
    for path in files {
        let next = read(path)?;
        next.fit(&merged.machine).map_err(|error| Failure::in_file(path, error))?;
        let replaced = |case| next.entries.iter().any(|entry| entry.case() == case);
        merged.entries.retain(|entry| !replaced(entry.case()));
        merged.entries.extend(next.entries);
    }
    merged.entries.sort_by_key(|entry| entry.case());
    Ok(write(&merged, &arguments.output)?)
}
