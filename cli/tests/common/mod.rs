//! Runs the command as a process with a time limit, and creates the files of a run.
// Each test uses a part of this.
#![allow(dead_code, unreachable_pub)]

pub mod shim;
pub mod writers;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::{TempDir, tempdir};

pub const LION: &str = env!("CARGO_BIN_EXE_lion");

/// The time limit of a command: more than any needs on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A world-readable folder with a config and a run. It is also the home of the processes.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        let folder = tempdir().expect("a folder");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/cases/everything");
        for file in ["config.json", "run.safetensors"] {
            fs::copy(golden.join(file), folder.path().join(file)).expect("copied");
        }
        Files(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// Returns the arguments that replay the run to a file.
    pub fn replay(&self, output: &str) -> Vec<String> {
        let paths = ["config.json", "run.safetensors", output].map(|name| self.text(name));
        let [config, input, output] = &paths;
        ["replay", "--config", config, "--input", input, "--output", output].map(str::to_owned).into()
    }

    /// Returns the arguments of each command, as short as possible.
    pub fn every_command(&self) -> Vec<Vec<String>> {
        vec![
            self.replay("result.safetensors"),
            words("doctor"),
            words("bench --seconds 0 --sizes 1K --threads 1"),
            words("tune --level estimate --dry-run --ops step --dtypes f32"),
            words("profile show"),
            words("profile path"),
        ]
    }

    /// Returns a program with arguments in this home, without environment variables that lion reads.
    pub fn command(&self, program: &str, arguments: &[String]) -> Command {
        let mut command = Command::new(program);
        for name in ["LION_ISA", "LION_PROFILE", "LION_NO_PROFILE", "LION_CHUNK", "LION_NUM_THREADS"] {
            command.env_remove(name);
        }
        for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        command.env("HOME", self.0.path()).args(arguments);
        command
    }

    pub fn lion(&self, arguments: &[&str]) -> Command {
        self.command(LION, &arguments.iter().map(|it| it.to_string()).collect::<Vec<_>>())
    }
}

/// Splits the arguments of a command.
pub fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Returns the output of a process. Fails the test if it does not end.
#[track_caller]
pub fn finish(command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    fn collect(from: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // A killed process has printed a part.
            let _ = from.expect("it is piped").read_to_end(&mut bytes);
            bytes
        })
    }
    let (stdout, stderr) = (collect(stdout), collect(stderr));
    let status = wait(&mut child).unwrap_or_else(|| panic!("it hangs: {command:?}"));
    Output { status, stdout: stdout.join().expect("read"), stderr: stderr.join().expect("read") }
}

/// Returns the status of a process; `None` if it was killed because it did not end in time.
pub fn wait(child: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            return Some(status);
        }
        if start.elapsed() > PATIENCE {
            child.kill().expect("it can be killed");
            child.wait().expect("it has ended");
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Returns its stderr.
pub fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// Asserts that it failed with 1 and one line on stderr that names a place.
#[track_caller]
pub fn failed_at(done: &Output, place: &str) {
    let said = said(done);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert!(said.starts_with("lion: ") && said.lines().count() == 1 && said.contains(place), "{said:?}");
}

/// Prints that a test is skipped because this machine does not permit it. Fails the test if `LION_EXPECT_MACHINES` is set.
#[track_caller]
pub fn skip(what: &str) {
    println!("skipped: {what}");
    eprintln!("skipped: {what}");
    assert!(
        std::env::var_os("LION_EXPECT_MACHINES").is_none(),
        "LION_EXPECT_MACHINES is set, and was skipped: {what}"
    );
}
