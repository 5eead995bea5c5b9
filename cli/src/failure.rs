//! How a command fails, and what the process says then.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Why a command did not do its work. Each message is one line.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A file, or what is in it.
    Input(String),
    /// The way it was called.
    Usage(String),
    /// What it was to write to its output, which is not a file.
    Output(io::Error),
}

impl Failure {
    /// A file of which the library does not know the name.
    pub(crate) fn in_file(path: &Path, reason: impl std::fmt::Display) -> Self {
        Failure::Input(format!("{}: {reason}", path.display()))
    }

    /// Says it on stderr, in one line, and gives the process's answer.
    pub(crate) fn report(&self) -> ExitCode {
        let (message, code) = match self {
            Failure::Input(message) => (message.clone(), 1),
            Failure::Usage(message) => (message.clone(), 2),
            // Whoever reads it has enough.
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Failure::Output(error) => (format!("stdout: {error}"), 1),
        };
        say(&message);
        ExitCode::from(code)
    }
}

impl From<lion_autotune::Error> for Failure {
    fn from(error: lion_autotune::Error) -> Self {
        Failure::Input(error.to_string())
    }
}

impl From<lion_distributed::Error> for Failure {
    fn from(error: lion_distributed::Error) -> Self {
        Failure::Input(error.to_string())
    }
}

impl From<lion::Error> for Failure {
    fn from(error: lion::Error) -> Self {
        Failure::Input(error.to_string())
    }
}

/// The libraries' warnings, as lines on stderr.
pub(crate) fn say_warnings() {
    struct Said;

    impl log::Log for Said {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.level() <= log::Level::Warn && metadata.target().starts_with("lion")
        }

        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                say(&format!("warning: {}", record.args()));
            }
        }

        fn flush(&self) {}
    }

    // Only a second logger is refused.
    if log::set_logger(&Said).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}

/// A line on stderr. That nobody reads it is no reason to fail.
pub(crate) fn say(message: &str) {
    let line: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // There is no place left to report it to.
    let _ = writeln!(io::stderr(), "lion: {line}");
}
