//! Where profiles are, and how one takes the place of another.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;

use super::Document;
use crate::Error;

/// The user's profile: `lion/profile.toml` in `$XDG_CONFIG_HOME` or `~/.config`, on Windows in `%APPDATA%`. `None`
/// where there is no home.
pub fn user_path() -> Option<PathBuf> {
    let folders = etcetera::choose_base_strategy().ok()?;
    Some(folders.config_dir().join("lion").join("profile.toml"))
}

/// The profile for all users of a system: `/etc/lion/profile.toml`, on Windows `lion\profile.toml` in
/// `%PROGRAMDATA%`.
pub fn system_path() -> PathBuf {
    let folder = match std::env::var_os("PROGRAMDATA") {
        Some(folder) if cfg!(windows) => PathBuf::from(folder),
        _ => PathBuf::from("/etc"),
    };
    folder.join("lion").join("profile.toml")
}

/// Writes a profile, as [`write_text`] does.
///
/// # Errors
/// [`Error::File`], and [`Error::Syntax`] for one that cannot be written as TOML.
pub fn write(document: &Document, path: &Path) -> Result<(), Error> {
    write_text(&document.to_toml()?, path)
}

/// Writes a text as a whole or not at all: it is written beside its place and renamed, so that of two writers one wins
/// and a reader sees either.
///
/// # Errors
/// [`Error::File`].
pub fn write_text(text: &str, path: &Path) -> Result<(), Error> {
    let mut file = beside(path)?;
    let failed = |source| Error::File { path: path.into(), action: "write", source };
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Whether a profile can be written there, which is better known before a long measurement.
///
/// # Errors
/// [`Error::File`].
pub fn can_write(path: &Path) -> Result<(), Error> {
    beside(path).map(drop)
}

/// A file that vanishes unless it is renamed, in the folder where another is to be.
fn beside(path: &Path) -> Result<tempfile::NamedTempFile, Error> {
    let failed = |action| move |source| Error::File { path: path.into(), action, source };
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(failed("write")(std::io::Error::other("it is not a regular file")));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    let mut new = tempfile::Builder::new();
    new.prefix(".lion-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // What the process's mask leaves of this is what any new file has.
        new.permissions(fs::Permissions::from_mode(0o666));
    }
    new.tempfile_in(folder).map_err(failed("write"))
}
