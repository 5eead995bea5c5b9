//! `lion report`: draws the measurements of a tuning as an HTML page.

use std::path::PathBuf;

use lion_autotune::profile::write_text;
use lion_autotune::{Error, TuningLog, report};

use crate::error::CliError;

/// Draws the measurements of `lion tune` as one self-contained HTML page
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The page to write
    #[arg(long, value_name = "REPORT.html")]
    output: PathBuf,
    /// The log of a tuning; default: that of the user's last tuning
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let path = match &arguments.record {
        Some(path) => path.clone(),
        None => TuningLog::user_path().ok_or(Error::NoHome)?,
    };
    let record = TuningLog::read(&path).map_err(|error| match error {
        error @ Error::File { .. } => CliError::Input(format!("{error}; lion tune writes this log")),
        error => CliError::in_file(&path, error),
    })?;
    Ok(write_text(&report::html(&record), &arguments.output)?)
}
