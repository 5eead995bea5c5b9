//! The file that a command is to write.

use std::fs;
use std::path::Path;

use crate::failure::Failure;

/// Whether a file can be made or replaced there, as far as that can be known without writing: better before a long
/// run than after it.
pub(crate) fn check(path: &Path) -> Result<(), Failure> {
    let wrong =
        |reason: &dyn std::fmt::Display| Failure::in_file(path, format_args!("cannot write: {reason}"));
    // A rename would replace a device as readily as a file.
    if path.file_name().is_none() || fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(wrong(&"is not a regular file"));
    }
    match fs::metadata(folder(path)) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(wrong(&"its folder is a file")),
        Err(error) => Err(wrong(&format_args!("its folder: {error}"))),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
