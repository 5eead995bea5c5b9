//! The temporary files of [`replace`](super::replace()): creation, and removal of files that killed writers left.
//!
//! A writer locks its temporary file until the rename. If the process dies, the system releases the lock. Before a writer
//! creates its file it sweeps: it removes the temporary files of the same target that it can lock. So it never removes the
//! file of a live writer.
//!
//! A sweeper may lock a file between its creation and its writer's lock. The writer then fails to lock it, or finds that it
//! has been removed, and creates another. On a file system without locks nothing is swept.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

use super::{Target, folder};

const SUFFIX: &str = ".tmp";
/// The number of random letters and digits between prefix and suffix.
const RANDOM: usize = 6;

/// Sweeps, then creates a file beside the target. Dropping it removes the file, unless it was renamed.
pub(super) fn beside(target: &Target) -> io::Result<NamedTempFile> {
    let prefix = prefix(&target.path);
    #[cfg(unix)]
    lock::sweep(folder(&target.path), &prefix);
    let mut builder = Builder::new();
    builder.prefix(&prefix).suffix(SUFFIX).rand_bytes(RANDOM);
    #[cfg(unix)]
    if target.old.is_none() {
        // A new file gets the usual mode, which the umask reduces. If there is an old file, the temporary file stays private
        // until it gets the old file's mode.
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    }
    let make = || builder.tempfile_in(folder(&target.path));
    #[cfg(unix)]
    return lock::held(make);
    // On other systems a lock would block other handles, and an open file cannot be removed.
    #[cfg(not(unix))]
    make()
}

/// Returns `.NAME.lion-`. The name of the project makes a clash with a user's file unlikely.
fn prefix(target: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(target.file_name().unwrap_or_default());
    prefix.push(".lion-");
    prefix
}

#[cfg(unix)]
mod lock {
    use std::ffi::OsStr;
    use std::fs::{self, File, OpenOptions, TryLockError};
    use std::io;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
    use std::path::Path;

    use tempfile::NamedTempFile;

    use super::{RANDOM, SUFFIX};

    /// Creates and locks a file. Tries again if a sweeper was faster.
    pub(super) fn held(make: impl Fn() -> io::Result<NamedTempFile>) -> io::Result<NamedTempFile> {
        /// A sweeper lists the folder once, so each failed attempt needs another sweeper.
        const ATTEMPTS: usize = 100;
        for _ in 0..ATTEMPTS {
            let made = make()?;
            match made.as_file().try_lock() {
                // A sweeper holds the lock, and removes the file.
                Err(TryLockError::WouldBlock) => {}
                // If the writer cannot lock, neither can a sweeper.
                Err(TryLockError::Error(_)) => return Ok(made),
                // The file still has its name. Its link count would not tell: it is 0 on some file systems.
                Ok(()) if made.path().is_file() => return Ok(made),
                Ok(()) => {}
            }
        }
        Err(io::Error::other(format!("its temporary file was removed {ATTEMPTS} times")))
    }

    /// Removes the files of dead writers. Ignores errors: a file that stays does not prevent the write.
    pub(super) fn sweep(folder: &Path, prefix: &OsStr) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            if is_temporary(&entry.file_name(), prefix) {
                let _ = remove_unless_held(&entry.path());
            }
        }
    }

    pub(super) fn is_temporary(name: &OsStr, prefix: &OsStr) -> bool {
        let random = name.as_bytes().strip_prefix(prefix.as_bytes());
        let random = random.and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()));
        random.is_some_and(|it| it.len() == RANDOM && it.iter().all(u8::is_ascii_alphanumeric))
    }

    fn remove_unless_held(path: &Path) -> io::Result<()> {
        // Does not follow links, and does not wait for the writer of a pipe.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let opened = file.metadata()?;
        if !opened.is_file() {
            return Ok(());
        }
        file.try_lock()?;
        // Its writer may have renamed it before it released the lock.
        let named = fs::symlink_metadata(path)?;
        if (named.dev(), named.ino()) == (opened.dev(), opened.ino()) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::{self, File};

    use super::{lock, prefix};
    use crate::replace::{Target, replace};

    #[test]
    fn names() {
        let prefix = prefix("folder/result".as_ref());
        for (name, expected) in [
            (".result.lion-aB3dEf.tmp", true),
            (".result.lion-aB3dE.tmp", false),
            (".result.lion-aB3dEfg.tmp", false),
            (".result.lion-aB-dEf.tmp", false),
            (".result.aB3dEf.tmp", false),
            (".result2.lion-aB3dEf.tmp", false),
            ("result.lion-aB3dEf.tmp", false),
            (".result.lion-aB3dEf", false),
        ] {
            assert_eq!(lock::is_temporary(name.as_ref(), &prefix), expected, "{name}");
        }
    }

    /// The next writer removes the file of a dead one, but neither the file of a live one nor any other file.
    #[test]
    fn only_the_dead_are_swept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let live = super::beside(&Target { path: path("result"), old: None }).expect("made");
        let [dead, other, pipe] =
            [".result.lion-dead00.tmp", ".other.lion-dead00.tmp", ".result.lion-folder.tmp"].map(path);
        for file in [&dead, &other] {
            fs::write(file, "part").expect("written");
        }
        fs::create_dir(&pipe).expect("made");
        let linked = path(".result.lion-linked.tmp");
        std::os::unix::fs::symlink(&other, &linked).expect("linked");
        replace(&path("result"), |_| Ok(())).expect("replaced");
        assert!(!dead.exists() && live.path().exists() && other.exists() && pipe.exists());
        assert!(linked.is_symlink());
        // A file that another process has locked stays, whoever created it.
        let held = File::create(&dead).expect("made");
        held.lock().expect("locked");
        replace(&path("result"), |_| Ok(())).expect("replaced");
        assert!(dead.exists());
        drop(held);
        replace(&path("result"), |_| Ok(())).expect("replaced");
        assert!(!dead.exists());
    }

    /// Concurrent writers of one target: each sweeps, and none loses its file.
    #[test]
    fn many_writers() {
        use std::io::Write as _;

        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("result");
        std::thread::scope(|scope| {
            for writer in 0..4_u8 {
                let target = &target;
                scope.spawn(move || {
                    for _ in 0..50 {
                        replace(target, |file| file.write_all(&[writer; 1000])).expect("replaced");
                    }
                });
            }
        });
        let found = fs::read(&target).expect("there");
        assert!(found.len() == 1000 && found.iter().all(|byte| *byte == found[0]));
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
    }
}
