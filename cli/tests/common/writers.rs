//! The commands that replace a file, each with an old file in an otherwise empty folder.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use super::{Files, LION, finish, said};

pub const OLD: &[u8] = b"old";

pub struct Writers {
    pub files: Files,
    /// Prepares each command, with the file that it writes if nothing fails.
    pub all: Vec<Writer>,
}

pub struct Writer {
    pub arguments: Vec<String>,
    pub target: PathBuf,
    pub new: Vec<u8>,
}

impl Writers {
    pub fn new() -> Self {
        let files = Files::new();
        fs::create_dir(files.path("results")).expect("made");
        let tune = ["tune", "--time-limit", "0", "--ops", "statistics", "--dtypes", "f32", "--threads", "1"];
        let done = finish(files.lion(&tune).args(["--output", &files.text("profile.toml")]));
        assert!(done.status.success(), "{done:?}");
        let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
        let output = files.text("results/output");
        let (profile, record) = (files.text("profile.toml"), files.text(".cache/lion/tuning.jsonl"));
        let commands = [
            files.replay("results/output"),
            words(&["tune", "--level", "estimate", "--ops", "step", "--dtypes", "f32", "--output", &output]),
            words(&["profile", "merge", &profile, "--output", &output]),
            words(&["report", "--record", &record, "--output", &output]),
        ];
        let mut writers = Writers { files, all: Vec::new() };
        for arguments in commands {
            let done = finish(&mut writers.files.command(LION, &arguments));
            assert!(done.status.success(), "{arguments:?}: {done:?}");
            let new = fs::read(&output).expect("written");
            writers.all.push(Writer { arguments, target: output.clone().into(), new });
        }
        writers
    }

    pub fn folder(&self) -> PathBuf {
        self.files.path("results")
    }

    /// Resets the target to the old file, removes all other files, and returns the command of a writer.
    pub fn prepare(&self, writer: &Writer) -> Command {
        for other in self.others(writer) {
            fs::remove_file(other).expect("removed");
        }
        fs::write(&writer.target, OLD).expect("written");
        self.files.command(LION, &writer.arguments)
    }

    /// Returns the other files beside the target.
    pub fn others(&self, writer: &Writer) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder()).expect("listed");
        entries.map(|entry| entry.expect("an entry").path()).filter(|path| *path != writer.target).collect()
    }
}

impl Writer {
    /// Returns whether the target is the whole new file. Fails the test if it is neither the whole new nor the whole old one.
    #[track_caller]
    pub fn is_new(&self) -> bool {
        let found = fs::read(&self.target).expect("there");
        assert!(found == OLD || found == self.new, "{:?}: neither old nor new", self.arguments);
        found == self.new
    }

    /// Asserts that a command succeeded and wrote, or failed with one line that names the file and did not write.
    #[track_caller]
    pub fn succeeded_or_failed_whole(&self, done: &Output) {
        let (said, name) = (said(done), self.target.to_str().expect("UTF-8"));
        if done.status.success() {
            assert!(self.is_new(), "{done:?}");
            return;
        }
        super::failed_at(done, name);
        assert_eq!(self.is_new(), said.contains("is replaced, but"), "{done:?}");
    }
}
