//! Files that commands write.

use std::fs;
use std::io::{self, Write as _};
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

/// Writes a file as a whole or not at all: beside its place, and renamed.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    check(path)?;
    let failed = |error: io::Error| Failure::in_file(path, format_args!("cannot write: {error}"));
    let mut new = tempfile::Builder::new();
    new.prefix(".lion-");
    // As any file that a program makes, and not as a secret one.
    #[cfg(unix)]
    new.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = new.tempfile_in(folder(path)).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
