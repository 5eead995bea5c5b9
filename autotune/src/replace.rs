//! Replaces a file as a whole or not at all: the one way in which checkpoints, profiles, reports and results are
//! written.
//!
//! The new content goes to a temporary file beside the old one, is brought to the disk, and is renamed over it. After a
//! crash or an error the old file is there whole, or the new one. A killed process may leave the temporary file, whose
//! name is the target's between a dot and `.lion-XXXXXX.tmp`. The next writer of that target removes it; on file systems
//! without locks, and on systems other than Unix, it stays.
//!
//! The file keeps what is not its content. A symbolic link stays, and its target is replaced. Mode and owner are those
//! of the old file, if the system lets this process set them. A new file has the mode that the process's mask leaves.
//! Other hard links keep the old content. Access control lists and extended attributes are lost.
//!
//! Callers check before a long run, by [`check`], that a file can be written.

mod temporary;

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use temporary::beside;

/// Writes what `write` writes to the file at `path`, or leaves that file as it was.
///
/// # Errors
/// Those of `write` and of [`check`], and a file or folder that cannot be written.
pub fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let target = target(path)?;
    let mut temporary = beside(&target)?;
    // From here on it is removed where it is dropped.
    write(temporary.as_file_mut())?;
    if let Some(old) = target.old {
        keep(&old, temporary.as_file())?;
    }
    temporary.as_file().sync_all()?;
    temporary.persist(&target.path).map_err(|failed| failed.error)?;
    sync_folder(folder(&target.path))
}

/// Finds out, as far as possible without writing, whether [`replace`] can write this file: better before a long run
/// than after it.
///
/// # Errors
/// A path that leads to something other than a regular file, and a folder that does not exist.
pub fn check(path: &Path) -> io::Result<()> {
    let target = target(path)?;
    let within = |reason: &dyn std::fmt::Display| io::Error::other(format!("its folder: {reason}"));
    match fs::metadata(folder(&target.path)) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(within(&"is not a directory")),
        Err(error) => Err(within(&error)),
    }
}

/// Returns the file that is written when `path` is: the end of the symbolic links, if there are any.
///
/// # Errors
/// A path that leads to something other than a regular file, or through a ring of links.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    target(path).map(|target| target.path)
}

/// Finds out, by a temporary file, whether [`replace`] can write this file.
///
/// # Errors
/// As [`check`], and a temporary file that cannot be made.
pub fn rehearse(path: &Path) -> io::Result<()> {
    beside(&target(path)?).map(drop)
}

/// The file that is written when `path` is.
struct Target {
    path: PathBuf,
    /// The file to be replaced.
    old: Option<Metadata>,
}

/// Follows links as the system does when it opens a file to write. The last one may lead to a file that does not exist.
fn target(path: &Path) -> io::Result<Target> {
    /// As many as Linux follows.
    const MOST_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..=MOST_LINKS {
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return match path.file_name() {
                    Some(_) => Ok(Target { path, old: None }),
                    None => Err(io::Error::other("is not the name of a file")),
                };
            }
            Err(error) => return Err(error),
        };
        if found.is_symlink() {
            path = folder(&path).join(fs::read_link(&path)?);
        } else if found.is_file() {
            return Ok(Target { path, old: Some(found) });
        } else {
            // A rename would replace a device as readily as a file.
            return Err(io::Error::other("is not a regular file"));
        }
    }
    Err(io::Error::other(format!("leads through more than {MOST_LINKS} symbolic links")))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Gives the new file the owner and the mode of the old one.
#[cfg(unix)]
fn keep(old: &Metadata, new: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};

    let found = new.metadata()?;
    // Only the superuser may give a file away; a user may give it to another group of the user's own.
    let owner = (old.uid() != found.uid()).then_some(old.uid());
    let group = (old.gid() != found.gid()).then_some(old.gid());
    if fchown(new, owner, group).is_err() && owner.is_some() && group.is_some() {
        // Whether this works is seen below.
        let _ = fchown(new, None, group);
    }
    let found = new.metadata()?;
    let mut mode = old.mode() & 0o7777;
    if found.uid() != old.uid() {
        // A program that runs as its owner must not run as another one.
        mode &= !0o4000;
    }
    if found.gid() != old.gid() {
        // The permissions of the old group are not meant for the new one, which gets those of everybody.
        mode = mode & !0o2070 | (mode & 0o007) << 3;
    }
    // After the owner, as a change of owner clears bits.
    new.set_permissions(fs::Permissions::from_mode(mode))
}

/// The owner of a file on other systems is who writes it, and its mode whether it is read-only, which no file is that
/// can be replaced.
#[cfg(not(unix))]
fn keep(_: &Metadata, _: &File) -> io::Result<()> {
    Ok(())
}

/// The name too must reach the disk.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    let explain = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("is replaced, but its folder cannot be brought to the disk: {error}"),
        )
    };
    synced.map_err(explain)
}
