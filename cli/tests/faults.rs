//! Faults outside the command: a full disk, and files without permission. The command prints one line, ends with 1, and
//! leaves the files as they were.
#![cfg(unix)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{LION, skip};
use tempfile::{TempDir, tempdir};

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/cases/everything").join(file)
}

/// A world-readable folder with a config, a run, and an old result.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let folder = tempdir().expect("a folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("permitted");
        for file in ["config.json", "run.safetensors"] {
            fs::copy(golden(file), folder.path().join(file)).expect("copied");
        }
        fs::create_dir(folder.path().join("results")).expect("a folder");
        let files = Files(folder);
        fs::write(files.output(), "old").expect("written");
        files
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }

    fn output(&self) -> String {
        self.path("results/result.safetensors")
    }

    fn arguments(&self) -> Vec<String> {
        let [config, input] = ["config.json", "run.safetensors"].map(|name| self.path(name));
        let words = ["replay", "--config", &config, "--input", &input, "--output", &self.output()];
        words.map(str::to_owned).into()
    }

    /// Asserts that the command printed one line with this text, and left the old result and no other file.
    #[track_caller]
    fn is_as_it_was(&self, done: &Output, place: &str, expected: &str) {
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        assert!(said.starts_with(&format!("lion: {place}: ")) && said.contains(expected), "{said:?}");
        assert_eq!(said.lines().count(), 1, "{said:?}");
        assert_eq!(fs::read(self.output()).expect("there"), b"old");
        assert_eq!(fs::read_dir(self.0.path().join("results")).expect("listed").count(), 1);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device() {
    let full = || fs::File::options().write(true).open("/dev/full").expect("Linux has one");
    let done = Command::new(LION).arg("doctor").stdout(full()).output().expect("it runs");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.starts_with("lion: stdout: ") && said.lines().count() == 1, "{said:?}");
    // A full stderr changes nothing.
    let arguments = ["replay", "--config", "/nowhere", "--input", "/nowhere", "--output", "/nowhere"];
    let status = Command::new(LION).args(arguments).stderr(full()).status().expect("it runs");
    assert_eq!(status.code(), Some(1));
}

/// Three tensors of 32 MiB fit under the second limit but not under the first. If an f32 copy of 64 MiB existed too, they
/// would fit under neither.
#[cfg(target_os = "linux")]
#[test]
fn a_memory_that_is_short() {
    let bench = |mebibytes: usize| {
        let mut command = Command::new("sh");
        let limit = format!("ulimit -v {}; exec \"$0\" \"$@\"", mebibytes << 10);
        command.args(["-c", &limit, LION, "bench", "--json", "--seconds", "0", "--threads", "1"]);
        command.args(["--sizes", "16M", "--dtypes", "bf16/bf16/bf16"]).env_remove("LION_ISA");
        // One arena, because per-thread arenas reserve memory that the test does not mean to count.
        command.env("MALLOC_ARENA_MAX", "1").output().expect("it runs")
    };
    let short = bench(80);
    let said = String::from_utf8_lossy(&short.stderr).into_owned();
    assert_eq!(short.status.code(), Some(1), "{short:?}");
    assert_eq!(said, "lion: no memory for 16777216 elements of bf16\n");
    let enough = bench(136);
    assert!(enough.status.success() && enough.stderr.is_empty(), "{enough:?}");
}

/// Runs as an unprivileged user, because the superuser may read and write everything.
fn as_nobody(arguments: &[String]) -> Option<Output> {
    const NOBODY: u32 = 65_534;
    let mut command = Command::new(LION);
    command.args(arguments);
    // A process that may not change its user is unprivileged already.
    if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        command.uid(NOBODY).gid(NOBODY);
    }
    match command.output() {
        Ok(done) => Some(done),
        Err(error) => {
            skip(&format!("another user cannot run {LION}: {error}"));
            None
        }
    }
}

#[test]
fn what_is_not_permitted() {
    for (name, mode, about, expected) in [
        ("config.json", 0o000, "config.json", "cannot open: Permission denied"),
        ("run.safetensors", 0o000, "run.safetensors", "cannot open: Permission denied"),
        ("results", 0o555, "results/result.safetensors", "cannot write: Permission denied"),
    ] {
        let files = Files::new();
        let path = files.path(name);
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("permitted");
        let done = as_nobody(&files.arguments());
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("permitted");
        let Some(done) = done else { return };
        files.is_as_it_was(&done, &files.path(about), expected);
    }
}
