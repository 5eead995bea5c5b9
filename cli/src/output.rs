//! Checks of output files before a long run.

use std::path::Path;

use lion_autotune::replace;

use crate::error::CliError;

/// Returns an error if the file cannot be created or replaced, as far as that can be known without writing.
pub(crate) fn check(path: &Path) -> Result<(), CliError> {
    replace::check(path).map_err(|error| CliError::in_file(path, format_args!("cannot write: {error}")))
}

/// Makes a write beyond the file size limit (`ulimit -f`) an error. By default a signal ends the process, which then
/// leaves its temporary file. Threads that start later inherit the setting.
#[cfg(unix)]
pub(crate) fn refuse_large_files() {
    use nix::sys::signal::{SigSet, Signal};

    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    // If this fails, the signal ends the process, as it ends other programs.
    let _ = signals.thread_block();
}

/// Other systems have no such signal.
#[cfg(not(unix))]
pub(crate) fn refuse_large_files() {}
