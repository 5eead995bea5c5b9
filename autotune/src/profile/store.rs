//! Where profiles are, and how one takes the place of another.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;

use super::Document;
use crate::{Error, replace};

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

/// Writes a text as a whole or not at all, by [`replace()`](replace::replace), and makes its folder.
///
/// # Errors
/// [`Error::File`].
pub fn write_text(text: &str, path: &Path) -> Result<(), Error> {
    make_folder(path)?;
    replace::replace(path, |file| file.write_all(text.as_bytes())).map_err(failed(path, "write"))
}

/// Makes the folder of a profile, and checks that the profile can be written there: better before a long measurement.
///
/// # Errors
/// [`Error::File`].
pub fn can_write(path: &Path) -> Result<(), Error> {
    make_folder(path)?;
    replace::rehearse(path).map_err(failed(path, "write"))
}

fn make_folder(path: &Path) -> Result<(), Error> {
    let target = replace::resolve(path).map_err(failed(path, "write"))?;
    match target.parent() {
        Some(folder) => fs::create_dir_all(folder).map_err(failed(path, "make the folder of")),
        None => Ok(()),
    }
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |reason| Error::File { path: path.into(), action, reason }
}
