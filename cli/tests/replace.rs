//! Replacing a file keeps its mode, its owner if that is allowed, and the symbolic link that leads to it. Holds for every
//! writer of the command.
#![cfg(unix)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{LION, skip};
use tempfile::{TempDir, tempdir};

const NOBODY: u32 = 65_534;

/// The commands that write a file.
#[derive(Clone, Copy, Debug)]
enum Writer {
    Replay,
    Merge,
    Report,
}

const WRITERS: [Writer; 3] = [Writer::Replay, Writer::Merge, Writer::Report];

struct Folder(TempDir);

impl Folder {
    /// Creates a world-writable folder with the files that the commands read.
    fn new() -> Self {
        let folder = Folder(tempdir().expect("a folder"));
        fs::set_permissions(folder.0.path(), Permissions::from_mode(0o777)).expect("permitted");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/cases/plain");
        for file in ["config.json", "run.safetensors"] {
            fs::copy(golden.join(file), folder.path(file)).expect("copied");
        }
        let tuned = Command::new(LION)
            .args(["tune", "--time-limit", "1", "--ops", "statistics", "--dtypes", "f32", "--output"])
            .arg(folder.path("profile.toml"))
            .env("XDG_CACHE_HOME", folder.0.path())
            .output()
            .expect("it runs");
        assert!(tuned.status.success(), "{tuned:?}");
        for file in ["config.json", "run.safetensors", "profile.toml", "lion", "lion/tuning.jsonl"] {
            fs::set_permissions(folder.path(file), Permissions::from_mode(0o755)).expect("permitted");
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, writer: Writer, output: &Path) -> Command {
        let mut command = Command::new(LION);
        command.env("LION_NO_PROFILE", "1");
        match writer {
            Writer::Replay => {
                command.args(["replay", "--config"]).arg(self.path("config.json"));
                command.arg("--input").arg(self.path("run.safetensors"));
            }
            Writer::Merge => {
                command.args(["profile", "merge"]).arg(self.path("profile.toml"));
            }
            Writer::Report => {
                command.args(["report", "--record"]).arg(self.path("lion/tuning.jsonl"));
            }
        }
        command.arg("--output").arg(output);
        command
    }

    fn write(&self, writer: Writer, output: &Path) -> Output {
        self.command(writer, output).output().expect("it runs")
    }

    fn replaces(&self, writer: Writer, output: &Path) {
        let done = self.write(writer, output);
        assert!(done.status.success(), "{writer:?}: {done:?}");
        assert_ne!(fs::read(output).expect("there"), b"old", "{writer:?}");
    }
}

fn old(path: &Path, mode: u32) {
    fs::write(path, "old").expect("written");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("permitted");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").mode() & 0o7777
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).expect("there").is_symlink()
}

#[test]
fn the_mode_stays() {
    let folder = Folder::new();
    let output = folder.path("output");
    for writer in WRITERS {
        for bits in [0o600, 0o640, 0o664, 0o604, 0o444] {
            old(&output, bits);
            folder.replaces(writer, &output);
            assert_eq!(mode(&output), bits, "{writer:?}");
            fs::remove_file(&output).expect("removed");
        }
        // A new file has the mode that the umask gives.
        let plain = folder.path("plain");
        fs::write(&plain, "").expect("written");
        folder.replaces(writer, &output);
        assert_eq!(mode(&output), mode(&plain), "{writer:?}");
        fs::remove_file(&output).expect("removed");
    }
}

#[test]
fn a_link_stays_and_its_target_is_replaced() {
    let folder = Folder::new();
    fs::create_dir(folder.path("other")).expect("made");
    let target = folder.path("other/target");
    let [direct, absolute, second] = ["direct", "absolute", "second"].map(|name| folder.path(name));
    symlink("other/target", &direct).expect("linked");
    symlink(&target, &absolute).expect("linked");
    symlink("direct", &second).expect("linked");
    for writer in WRITERS {
        for link in [&direct, &absolute, &second] {
            old(&target, 0o640);
            folder.replaces(writer, link);
            assert!(is_link(link) && !is_link(&target), "{writer:?}, {link:?}");
            assert_eq!((fs::read(&target).ok(), mode(&target)), (fs::read(link).ok(), 0o640), "{writer:?}");
            // The link's target does not exist yet.
            fs::remove_file(&target).expect("removed");
            folder.replaces(writer, link);
            assert!(is_link(link) && target.is_file(), "{writer:?}, {link:?}");
            assert_eq!(fs::read_dir(folder.path("other")).expect("listed").count(), 1, "{writer:?}");
        }
    }
}

/// Links that lead to no file are refused, both before a long run and after it.
#[test]
fn links_that_lead_to_no_file() {
    let folder = Folder::new();
    let path = |name: &str| folder.path(name);
    symlink("ring", path("ring")).expect("linked");
    symlink("missing/target", path("nowhere")).expect("linked");
    symlink("/dev/null", path("device")).expect("linked");
    let before = fs::read_dir(folder.0.path()).expect("listed").count();
    for writer in [Writer::Replay, Writer::Report] {
        for name in ["ring", "device"] {
            let done = folder.write(writer, &path(name));
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(1), "{writer:?}: {said}");
            assert!(said.contains(name) && said.contains("cannot write: "), "{writer:?}: {said}");
            assert_eq!(said.lines().count(), 1, "{writer:?}: {said}");
            assert!(is_link(&path(name)), "{writer:?}");
        }
    }
    let done = folder.write(Writer::Replay, &path("nowhere"));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(1) && said.contains("cannot write: its folder"), "{said}");
    assert_eq!(fs::read_dir(folder.0.path()).expect("listed").count(), before);
}

/// The superuser may keep the owner of a file. Another user may not; then the group, which is another one, gets no more
/// permissions than everybody.
#[test]
fn the_owner_stays_where_that_is_allowed() {
    let folder = Folder::new();
    if fs::metadata(folder.0.path()).expect("there").uid() != 0 {
        skip("only the superuser can make a file of another owner");
        return;
    }
    let output = folder.path("output");
    for writer in WRITERS {
        old(&output, 0o660);
        std::os::unix::fs::chown(&output, Some(NOBODY), Some(NOBODY)).expect("given away");
        folder.replaces(writer, &output);
        let found = fs::metadata(&output).expect("there");
        assert_eq!((found.uid(), found.gid(), mode(&output)), (NOBODY, NOBODY, 0o660), "{writer:?}");
        fs::remove_file(&output).expect("removed");

        // For another user, the file changes its owner, and the new group does not get the old group's bits.
        old(&output, 0o664);
        let done = folder.command(writer, &output).uid(NOBODY).gid(NOBODY).output();
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                skip(&format!("another user cannot run {LION}: {error}"));
                return;
            }
        };
        assert!(done.status.success(), "{writer:?}: {done:?}");
        let found = fs::metadata(&output).expect("there");
        assert_eq!((found.uid(), found.gid(), mode(&output)), (NOBODY, NOBODY, 0o644), "{writer:?}");
        fs::remove_file(&output).expect("removed");
    }
}
