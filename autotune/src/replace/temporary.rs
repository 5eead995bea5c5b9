//! The temporary file of [`replace`](super::replace()): its name, and how the next writer of a target removes what a
//! killed writer left.
//!
//! A writer holds a lock on its temporary file until the rename; the system releases the lock when the process dies. A
//! sweeper removes a file only while the sweeper holds that file's lock, so it never removes a live writer's.
//!
//! A sweeper may lock a file between its creation and its own writer's lock. The writer then fails to lock it, or finds
//! that it has no name any more, and makes another. A file system without locks sweeps nothing.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

use super::{Target, folder};

const SUFFIX: &str = ".tmp";
/// The random letters and digits between prefix and suffix.
const RANDOM: usize = 6;

/// Makes a file beside the target that is removed unless it is renamed, after sweeping what is left of dead writers.
pub(super) fn beside(target: &Target) -> io::Result<NamedTempFile> {
    let prefix = prefix(&target.path);
    #[cfg(unix)]
    lock::sweep(folder(&target.path), &prefix);
    let mut builder = Builder::new();
    builder.prefix(&prefix).suffix(SUFFIX).rand_bytes(RANDOM);
    #[cfg(unix)]
    if target.old.is_none() {
        // The process's mask takes from this what it takes from any new file. The successor of an old file is secret
        // until it has that file's mode.
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    }
    let make = || builder.tempfile_in(folder(&target.path));
    #[cfg(unix)]
    return lock::held(make);
    // The lock of other systems keeps other handles from the content, and an open file is not removed there.
    #[cfg(not(unix))]
    make()
}

/// Names the project beside the target, so that no file of the user's has such a name by chance.
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

    /// Makes a file and locks it, again if a sweeper was faster.
    pub(super) fn held(make: impl Fn() -> io::Result<NamedTempFile>) -> io::Result<NamedTempFile> {
        /// A sweeper lists the folder once, so each of these would need a sweeper of its own.
        const ATTEMPTS: usize = 100;
        for _ in 0..ATTEMPTS {
            let made = make()?;
            match made.as_file().try_lock() {
                // Another process holds it: a sweeper, which removes it.
                Err(TryLockError::WouldBlock) => {}
                // Where the writer cannot lock, neither can a sweeper.
                Err(TryLockError::Error(_)) => return Ok(made),
                // Its random name is no other file's. The count of its links would be 0 on some file systems.
                Ok(()) if made.path().is_file() => return Ok(made),
                Ok(()) => {}
            }
        }
        Err(io::Error::other(format!("its temporary file was removed {ATTEMPTS} times")))
    }

    /// Removes what dead writers of a target left. What cannot be removed stays: that is no reason not to write.
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
        // Neither follows a link nor waits for the writer of a pipe.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let opened = file.metadata()?;
        if !opened.is_file() {
            return Ok(());
        }
        file.try_lock()?;
        // Its writer may have renamed it before the lock was free.
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

    /// The next writer removes what a dead one left, and neither a live writer's file nor anything else.
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
        // A name that another process has locked is not ours to remove, whoever made it.
        let held = File::create(&dead).expect("made");
        held.lock().expect("locked");
        replace(&path("result"), |_| Ok(())).expect("replaced");
        assert!(dead.exists());
        drop(held);
        replace(&path("result"), |_| Ok(())).expect("replaced");
        assert!(!dead.exists());
    }

    /// Writers of one target at a time: each sweeps, and none loses its file.
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
