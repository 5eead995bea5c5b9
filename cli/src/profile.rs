//! `lion profile`: shows and manages the files that `lion tune` writes.

mod diff;
mod merge;
mod verify;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use lion_autotune::profile::user_path;
use lion_autotune::{Document, Environment, Error, Machine, Profile, TuningLog, report};

use crate::error::CliError;

/// Shows, verifies, compares, merges or removes profiles
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Prints the plans of a profile as a table
    Show {
        /// The profile; default: the one that the library uses
        file: Option<PathBuf>,
    },
    Verify(verify::Arguments),
    Diff(diff::Arguments),
    Merge(merge::Arguments),
    /// Prints the path of the user's profile
    Path,
    /// Removes the user's profile and the log of its measurements
    Clear,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), CliError> {
    match &arguments.command {
        Command::Show { file } => show(file.as_deref()),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Diff(arguments) => diff::run(arguments),
        Command::Merge(arguments) => merge::run(arguments),
        Command::Path => print(&format!("{}\n", user_path().ok_or(Error::NoHome)?.display())),
        Command::Clear => clear(),
    }
}

fn print(text: &str) -> Result<(), CliError> {
    io::stdout().write_all(text.as_bytes()).map_err(CliError::Output)
}

fn read(path: &Path) -> Result<Document, CliError> {
    Document::read(path).map_err(|error| match error {
        error @ Error::File { .. } => error.into(),
        error => CliError::in_file(path, error),
    })
}

/// Reads the given file, or else the one that the library uses. Also returns its name. The document is `None` if the
/// library uses built-in defaults.
fn in_use(file: Option<&Path>) -> Result<(String, Option<Document>), CliError> {
    if let Some(path) = file {
        return Ok((path.display().to_string(), Some(read(path)?)));
    }
    let profile = Profile::found_in(&Environment::of_process(), &Machine::detect());
    let document = profile.source().file().map(read).transpose()?;
    Ok((profile.source().to_string(), document))
}

fn show(file: Option<&Path>) -> Result<(), CliError> {
    let (name, document) = in_use(file)?;
    let Some(document) = document else { return print(&format!("{name}: no profile file is in use\n")) };
    let machine = &document.machine;
    let fit = match document.fit(&Machine::detect()) {
        Ok(differences) if differences.is_empty() => "of this machine".to_owned(),
        Ok(differences) => format!("of this machine, but {}", differences.join("; ")),
        Err(error) => error.to_string(),
    };
    print(&format!(
        "{name}: {fit}\n{} ({}), {} cores, measured at level {} on version {}\n\n{}",
        machine.name(),
        machine.microarchitecture(),
        machine.cores,
        document.level,
        document.kernels.version,
        report::plans(&document)
    ))
}

fn clear() -> Result<(), CliError> {
    let paths = [Some(user_path().ok_or(Error::NoHome)?), TuningLog::user_path()];
    for path in paths.into_iter().flatten() {
        match fs::remove_file(&path) {
            Ok(()) => print(&format!("removed {}\n", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(CliError::in_file(&path, format_args!("cannot remove: {error}"))),
        }
    }
    Ok(())
}
