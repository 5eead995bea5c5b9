//! The record of a tuning, in the user's cache directory: what it was, then a line for each case that is done.
//!
//! A tuning that was stopped goes on from it, and `lion report` draws it. Only one tuner at a time holds it; another
//! works without. A record that cannot be read or written is a warning, and the tuning starts anew or leaves none.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Finding;
use crate::Error;
use crate::case::{Dtypes, Operation};
use crate::machine::Machine;
use crate::regular;

/// More than any tuning writes.
const LARGEST: u64 = 256 << 20;

/// What a tuning was asked for, on what.
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

/// What a journal tells.
#[derive(Clone, Debug)]
pub struct Record {
    /// The machine that was measured.
    pub machine: Machine,
    /// What was found, in the order of measurement.
    pub findings: Vec<Finding>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Tuning(Box<Header>),
    Finding(Box<Finding>),
    Done,
}

/// The record of a tuning, open for more.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Option<File>,
}

impl Journal {
    /// The user's journal; `None` where there is no directory for it.
    pub fn user_path() -> Option<PathBuf> {
        use etcetera::BaseStrategy as _;
        let folders = etcetera::choose_base_strategy().ok()?;
        Some(folders.cache_dir().join("lion").join("tuning.jsonl"))
    }

    /// Opens a journal, and holds it against other tuners.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be made, or another tuner holds it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |action| move |reason| Error::File { path: path.into(), action, reason };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("make its folder"))?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = regular::open_with(&mut options, path).map_err(failed("open"))?;
        let held = |error| match error {
            fs::TryLockError::Error(source) => source,
            fs::TryLockError::WouldBlock => std::io::Error::other("another tuner is at work"),
        };
        file.try_lock().map_err(held).map_err(failed("hold"))?;
        Ok(Journal { path: path.into(), file: Some(file) })
    }

    /// No record.
    pub fn none() -> Self {
        Journal { path: PathBuf::new(), file: None }
    }

    /// Reads a finished or stopped tuning.
    ///
    /// # Errors
    /// [`Error::File`], and [`Error::Record`] where it is none.
    pub fn read(path: &Path) -> Result<Record, Error> {
        let failed = |reason| Error::File { path: path.into(), action: "read", reason };
        let text = read(&mut regular::open(path).map_err(failed)?).map_err(failed)?;
        let (header, findings, _) = parse(&text)
            .ok_or_else(|| Error::Record { reason: "its first line is not a tuning's".into() })?;
        Ok(Record { machine: header.machine, findings })
    }

    /// What a tuning that was asked for the same has found before it was stopped; else begins anew.
    pub(super) fn resume(&mut self, header: &Header) -> Vec<Finding> {
        let Some(file) = &mut self.file else { return Vec::new() };
        let text = read(file).unwrap_or_default();
        if let Some((found, findings, done)) = parse(&text)
            && found == *header
            && !done
        {
            // What a tuner was writing when it was stopped is no line.
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            self.try_to("go on", |file| {
                file.set_len(whole as u64)?;
                file.seek(SeekFrom::End(0)).map(drop)
            });
            return findings;
        }
        self.try_to("clear", |file| {
            file.set_len(0)?;
            file.rewind()
        });
        self.add(&Line::Tuning(Box::new(header.clone())));
        Vec::new()
    }

    pub(super) fn found(&mut self, finding: &Finding) {
        self.add(&Line::Finding(Box::new(finding.clone())));
    }

    pub(super) fn done(&mut self) {
        self.add(&Line::Done);
    }

    fn add(&mut self, line: &Line) {
        self.try_to("write", |file| {
            let mut text = serde_json::to_vec(line)?;
            text.push(b'\n');
            file.write_all(&text)
        });
    }

    /// The first failure ends the record, and is said once.
    fn try_to(&mut self, action: &str, act: impl FnOnce(&mut File) -> std::io::Result<()>) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = act(file) {
            log::warn!("{}: cannot {action}, and what is measured is not kept: {error}", self.path.display());
            self.file = None;
        }
    }
}

fn read(file: &mut File) -> std::io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The lines up to the first that is none.
fn parse(text: &str) -> Option<(Header, Vec<Finding>, bool)> {
    let mut lines = text.lines().map_while(|line| serde_json::from_str(line).ok());
    let Some(Line::Tuning(header)) = lines.next() else { return None };
    let (mut findings, mut done) = (Vec::new(), false);
    for line in lines {
        match line {
            Line::Finding(finding) => findings.push(*finding),
            Line::Done => done = true,
            Line::Tuning(_) => break,
        }
    }
    Some((*header, findings, done))
}
