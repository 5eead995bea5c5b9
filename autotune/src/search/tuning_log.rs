//! The log of a tuning, in the user's cache directory. The first line describes the tuning; each further line is the result
//! of a case.
//!
//! A stopped tuning continues from its log, and `lion report` draws the log. A lock lets only one tuner at a time write it;
//! another tuner works without a log. If the log cannot be read, the tuning starts anew. If it cannot be written, that is a
//! warning.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::CaseResult;
use crate::Error;
use crate::case::{Dtypes, Operation};
use crate::machine::Machine;
use crate::regular;

/// The maximum number of bytes to read, which exceeds that of any tuning.
const MAX_BYTES: u64 = 256 << 20;

/// The request of a tuning, and its machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) machine: Machine,
    pub(super) candidates: String,
    pub(super) revision: u32,
    pub(super) level: String,
    pub(super) seed: u64,
    pub(super) threads: Option<usize>,
    pub(super) backends: Vec<String>,
    pub(super) operations: Vec<Operation>,
    pub(super) dtypes: Vec<Dtypes>,
}

/// The content of a log.
#[derive(Clone, Debug)]
pub struct TuningRecord {
    /// The measured machine.
    pub machine: Machine,
    /// The results, in the order of measurement.
    pub cases: Vec<CaseResult>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Tuning(Box<Header>),
    #[serde(rename = "finding")]
    Case(Box<CaseResult>),
    Done,
}

/// The log of a tuning, open for writing.
#[derive(Debug)]
pub struct TuningLog {
    path: PathBuf,
    file: Option<File>,
}

impl TuningLog {
    /// Returns the path of the user's log; `None` if the user has no directory for it.
    pub fn user_path() -> Option<PathBuf> {
        use etcetera::BaseStrategy as _;
        let folders = etcetera::choose_base_strategy().ok()?;
        Some(folders.cache_dir().join("lion").join("tuning.jsonl"))
    }

    /// Opens and locks a log.
    ///
    /// # Errors
    /// Returns [`Error::File`] if the log cannot be created, or another tuner has locked it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |action| move |reason| Error::File { path: path.into(), action, reason };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("create its folder"))?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = regular::open_with(&mut options, path).map_err(failed("open"))?;
        let locked = |error| match error {
            fs::TryLockError::Error(source) => source,
            fs::TryLockError::WouldBlock => std::io::Error::other("another tuner is at work"),
        };
        file.try_lock().map_err(locked).map_err(failed("lock"))?;
        Ok(TuningLog { path: path.into(), file: Some(file) })
    }

    /// Returns a log that writes nothing.
    pub fn none() -> Self {
        TuningLog { path: PathBuf::new(), file: None }
    }

    /// Reads the log of a finished or stopped tuning.
    ///
    /// # Errors
    /// Returns [`Error::File`] if the file cannot be read, and [`Error::Log`] if it is not a log.
    pub fn read(path: &Path) -> Result<TuningRecord, Error> {
        let failed = |reason| Error::File { path: path.into(), action: "read", reason };
        let text = read(&mut regular::open(path).map_err(failed)?).map_err(failed)?;
        let (header, results, _) = parse(&text)
            .ok_or_else(|| Error::Log { reason: "the first line does not describe a tuning".into() })?;
        Ok(TuningRecord { machine: header.machine, cases: results })
    }

    /// Returns the results of a stopped tuning with the same header. If there is none, starts a new log.
    pub(super) fn resume(&mut self, header: &Header) -> Vec<CaseResult> {
        let Some(file) = &mut self.file else { return Vec::new() };
        let text = read(file).unwrap_or_default();
        if let Some((found, results, done)) = parse(&text)
            && found == *header
            && !done
        {
            // Drops the incomplete last line that a stopped tuner may leave.
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            self.try_to("continue", |file| {
                file.set_len(whole as u64)?;
                file.seek(SeekFrom::End(0)).map(drop)
            });
            return results;
        }
        self.try_to("clear", |file| {
            file.set_len(0)?;
            file.rewind()
        });
        self.add(&Line::Tuning(Box::new(header.clone())));
        Vec::new()
    }

    pub(super) fn add_case(&mut self, result: &CaseResult) {
        self.add(&Line::Case(Box::new(result.clone())));
    }

    pub(super) fn add_end(&mut self) {
        self.add(&Line::Done);
    }

    fn add(&mut self, line: &Line) {
        self.try_to("write", |file| {
            let mut text = serde_json::to_vec(line)?;
            text.push(b'\n');
            file.write_all(&text)
        });
    }

    /// After the first failure the log writes nothing more, so there is one warning.
    fn try_to(&mut self, action: &str, act: impl FnOnce(&mut File) -> std::io::Result<()>) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = act(file) {
            log::warn!("{}: cannot {action}; the measurements are not logged: {error}", self.path.display());
            self.file = None;
        }
    }
}

fn read(file: &mut File) -> std::io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Parses the lines up to the first invalid one.
fn parse(text: &str) -> Option<(Header, Vec<CaseResult>, bool)> {
    let mut lines = text.lines().map_while(|line| serde_json::from_str(line).ok());
    let Some(Line::Tuning(header)) = lines.next() else { return None };
    let (mut results, mut done) = (Vec::new(), false);
    for line in lines {
        match line {
            Line::Case(result) => results.push(*result),
            Line::Done => done = true,
            Line::Tuning(_) => break,
        }
    }
    Some((*header, results, done))
}
