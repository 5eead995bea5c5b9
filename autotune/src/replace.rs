//! Replaces files atomically. Checkpoints, profiles, reports and results are all written in this way.
//!
//! The new content goes to a temporary file in the same folder. That file is synced to disk and renamed over the old one.
//! So after a crash or an error, either the whole old file or the whole new file exists. A killed process may leave its
//! temporary file, which is called `.NAME.lion-XXXXXX.tmp`. The next writer of the target removes it, except on file
//! systems without locks and on systems other than Unix.
//!
//! If the path is a symbolic link, the link stays and its target is replaced. The new file gets the mode and the owner of
//! the old one, if the system lets this process set them. A file that did not exist gets the mode that the umask leaves.
//! Other hard links keep the old content. Access control lists and extended attributes are lost.
//!
//! Before a long run, callers use [`check`] to find out whether a file can be written.

mod temporary;

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use temporary::beside;

/// Replaces the content of the file at `path` by what `write` writes. If an error occurs, the file stays as it was.
///
/// # Errors
/// Returns the errors of `write` and of [`check`], and an error if the file or its folder cannot be written.
pub fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let target = target(path)?;
    let mut temporary = beside(&target)?;
    // On an error the drop removes the temporary file.
    write(temporary.as_file_mut())?;
    if let Some(old) = target.old {
        copy_owner_and_mode(&old, temporary.as_file())?;
    }
    temporary.as_file().sync_all()?;
    temporary.persist(&target.path).map_err(|failed| failed.error)?;
    sync_folder(folder(&target.path))
}

/// Checks whether [`replace`] can write this file, as far as possible without writing.
///
/// # Errors
/// Returns an error if the path leads to something other than a regular file, or if its folder does not exist.
pub fn check(path: &Path) -> io::Result<()> {
    let target = target(path)?;
    let within = |reason: &dyn std::fmt::Display| io::Error::other(format!("its folder: {reason}"));
    match fs::metadata(folder(&target.path)) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(within(&"is not a directory")),
        Err(error) => Err(within(&error)),
    }
}

/// Follows symbolic links and returns the path of the file that [`replace`] would write.
///
/// # Errors
/// Returns an error if the path leads to something other than a regular file, or if links form a cycle.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    target(path).map(|target| target.path)
}

/// Checks whether [`replace`] can write this file, by creating a temporary file beside it.
///
/// # Errors
/// Returns the errors of [`check`], and an error if the temporary file cannot be created.
pub fn rehearse(path: &Path) -> io::Result<()> {
    beside(&target(path)?).map(drop)
}

/// The file that [`replace`] writes, after symbolic links are followed.
struct Target {
    path: PathBuf,
    /// The metadata of the file to replace.
    old: Option<Metadata>,
}

/// Follows links as the system does when it opens a file for writing. The last link may lead to a file that does not exist.
fn target(path: &Path) -> io::Result<Target> {
    /// The limit of Linux.
    const MAX_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..=MAX_LINKS {
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return match path.file_name() {
                    Some(_) => Ok(Target { path, old: None }),
                    None => Err(io::Error::other("does not end with a file name")),
                };
            }
            Err(error) => return Err(error),
        };
        if found.is_symlink() {
            path = folder(&path).join(fs::read_link(&path)?);
        } else if found.is_file() {
            return Ok(Target { path, old: Some(found) });
        } else {
            // A rename would replace a device too.
            return Err(io::Error::other("is not a regular file"));
        }
    }
    Err(io::Error::other(format!("leads through more than {MAX_LINKS} symbolic links")))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Sets owner and mode of the new file to those of the old one.
#[cfg(unix)]
fn copy_owner_and_mode(old: &Metadata, new: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};

    let found = new.metadata()?;
    // Only the superuser may change the owner. A user may change the group to another group of that user.
    let owner = (old.uid() != found.uid()).then_some(old.uid());
    let group = (old.gid() != found.gid()).then_some(old.gid());
    if fchown(new, owner, group).is_err() && owner.is_some() && group.is_some() {
        // The metadata below shows whether this worked.
        let _ = fchown(new, None, group);
    }
    let found = new.metadata()?;
    let mut mode = old.mode() & 0o7777;
    if found.uid() != old.uid() {
        // Drops setuid: a program that ran as its old owner must not run as the new one.
        mode &= !0o4000;
    }
    if found.gid() != old.gid() {
        // The new group gets the permissions of others, because those of the old group are not meant for it.
        mode = mode & !0o2070 | (mode & 0o007) << 3;
    }
    // After the change of owner, because that clears mode bits.
    new.set_permissions(fs::Permissions::from_mode(mode))
}

/// On other systems the writer owns the file. Its mode is only the read-only flag, which a replaceable file does not have.
#[cfg(not(unix))]
fn copy_owner_and_mode(_: &Metadata, _: &File) -> io::Result<()> {
    Ok(())
}

/// Syncs the folder, so that the new name reaches the disk too.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    let explain = |error: io::Error| {
        io::Error::new(error.kind(), format!("is replaced, but its folder cannot be synced to disk: {error}"))
    };
    synced.map_err(explain)
}
