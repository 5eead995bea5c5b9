//! The errors of a command, and how they and the libraries' warnings are printed.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// The error of a command. Each message is one line.
#[derive(Debug)]
pub(crate) enum CliError {
    /// A file or its content is bad, or the system refused a resource.
    Input(String),
    /// The arguments or the environment are wrong.
    Usage(String),
    /// stdout cannot be written.
    Output(io::Error),
}

impl CliError {
    /// An error in a file whose name the message does not contain yet.
    pub(crate) fn in_file(path: &Path, reason: impl std::fmt::Display) -> Self {
        CliError::Input(format!("{}: {reason}", path.display()))
    }

    /// Prints the error on stderr, in one line, and returns the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        let (message, code) = match self {
            CliError::Input(message) => (message.clone(), 1),
            CliError::Usage(message) => (message.clone(), 2),
            // The reader has closed the pipe because it has seen enough.
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            CliError::Output(error) => (format!("stdout: {error}"), 1),
        };
        print_error(&message);
        ExitCode::from(code)
    }
}

impl From<lion_autotune::Error> for CliError {
    fn from(error: lion_autotune::Error) -> Self {
        CliError::Input(error.to_string())
    }
}

impl From<lion_distributed::Error> for CliError {
    fn from(error: lion_distributed::Error) -> Self {
        CliError::Input(error.to_string())
    }
}

impl From<lion::Error> for CliError {
    fn from(error: lion::Error) -> Self {
        CliError::Input(error.to_string())
    }
}

/// Prints the libraries' warnings on stderr, one line each.
pub(crate) fn print_warnings() {
    struct Printer;

    impl log::Log for Printer {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.level() <= log::Level::Warn && metadata.target().starts_with("lion")
        }

        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                print_error(&format!("warning: {}", record.args()));
            }
        }

        fn flush(&self) {}
    }

    // Fails only if there is a logger already.
    if log::set_logger(&Printer).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}

/// Prints a line on stderr. A closed stderr is not an error.
pub(crate) fn print_error(message: &str) {
    let line: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // There is no place left to report a failure of stderr.
    let _ = writeln!(io::stderr(), "lion: {line}");
}
