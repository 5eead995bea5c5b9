//! The file that a command is to write.

use std::path::Path;

use lion_autotune::replace;

use crate::failure::Failure;

/// Whether a file can be made or replaced there, as far as that can be known without writing: better before a long
/// run than after it.
pub(crate) fn check(path: &Path) -> Result<(), Failure> {
    replace::check(path).map_err(|error| Failure::in_file(path, format_args!("cannot write: {error}")))
}
