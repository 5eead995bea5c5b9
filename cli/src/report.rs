//! `lion report`: a tuning as a page with pictures.

use std::path::PathBuf;

use lion_autotune::profile::write_text;
use lion_autotune::{Error, Journal, report};

use crate::failure::Failure;

/// Draws what `lion tune` measured, as one HTML page that needs nothing from elsewhere.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the page goes
    #[arg(long, value_name = "REPORT.html")]
    output: PathBuf,
    /// The record of a tuning; without this, of the user's last one
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let path = match &arguments.record {
        Some(path) => path.clone(),
        None => Journal::user_path().ok_or(Error::NoHome)?,
    };
    let record = Journal::read(&path).map_err(|error| match error {
        error @ Error::File { .. } => Failure::Input(format!("{error}; lion tune makes a record")),
        error => Failure::in_file(&path, error),
    })?;
    Ok(write_text(&report::html(&record), &arguments.output)?)
}
