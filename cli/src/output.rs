//! The files that a command is to write.

use std::path::Path;

use lion_autotune::replace;

use crate::failure::Failure;

/// Whether a file can be made or replaced there, as far as that can be known without writing: better before a long
/// run than after it.
pub(crate) fn check(path: &Path) -> Result<(), Failure> {
    replace::check(path).map_err(|error| Failure::in_file(path, format_args!("cannot write: {error}")))
}

/// Makes a write beyond the limit on the size of a file an error. Else a signal ends the process, and leaves its temporary
/// file. Threads that start later do as this one.
#[cfg(unix)]
pub(crate) fn refuse_large_files() {
    use nix::sys::signal::{SigSet, Signal};

    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    // Without this the signal is as bad as it is for other programs.
    let _ = signals.thread_block();
}

/// Other systems have no such signal.
#[cfg(not(unix))]
pub(crate) fn refuse_large_files() {}
