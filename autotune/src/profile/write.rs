//! Makes a profile of what was measured, and writes it.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::document::{Document, Entry, Kernels, SCHEMA};
use crate::candidate::{KERNELS_REVISION, checksum};
use crate::machine::Machine;
use crate::search::Finding;
use crate::{Error, replace};

impl Document {
    /// Of what a tuner found on a machine.
    pub fn new(machine: &Machine, level: &str, findings: &[Finding]) -> Self {
        let rounded = |ns: f64| (ns * 10.0).round() / 10.0;
        let entry = |finding: &Finding| Entry {
            operation: finding.case.operation,
            dtypes: finding.case.dtypes,
            size: finding.case.class(),
            plan: finding.plan.into(),
            nanoseconds: finding.nanoseconds.map(rounded),
            interval: finding.interval.map(|it| it.map(rounded)),
            default_nanoseconds: finding.default_nanoseconds.map(rounded),
        };
        Document {
            schema: SCHEMA,
            level: level.into(),
            kernels: Kernels {
                version: env!("CARGO_PKG_VERSION").into(),
                revision: KERNELS_REVISION,
                candidates: checksum(machine),
            },
            machine: machine.clone(),
            entries: findings.iter().map(entry).collect(),
        }
    }

    /// The file's text.
    ///
    /// # Errors
    /// [`Error::Syntax`] where a number is too large for TOML.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self).map_err(|error| Error::Syntax { reason: error.to_string() })
    }
}

/// Writes a profile, as [`write_text`] does.
///
/// # Errors
/// [`Error::File`], and [`Error::Syntax`] for one that cannot be written as TOML.
pub fn write(document: &Document, path: &Path) -> Result<(), Error> {
    write_text(&document.to_toml()?, path)
}

/// Writes a text as a whole or not at all, by [`replace()`](replace::replace), and makes its folder.
///
/// # Errors
/// [`Error::File`].
pub fn write_text(text: &str, path: &Path) -> Result<(), Error> {
    make_folder(path)?;
    replace::replace(path, |file| file.write_all(text.as_bytes())).map_err(failed(path, "write"))
}

/// Makes the folder of a profile, and checks that the profile can be written there: better before a long measurement.
///
/// # Errors
/// [`Error::File`].
pub fn can_write(path: &Path) -> Result<(), Error> {
    make_folder(path)?;
    replace::rehearse(path).map_err(failed(path, "write"))
}

fn make_folder(path: &Path) -> Result<(), Error> {
    let target = replace::resolve(path).map_err(failed(path, "write"))?;
    match target.parent() {
        Some(folder) => fs::create_dir_all(folder).map_err(failed(path, "make the folder of")),
        None => Ok(()),
    }
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |reason| Error::File { path: path.into(), action, reason }
}

#[cfg(test)]
mod tests {
    use lion_kernels::{Backend, Dtype, Plan, Prefetch};

    use super::super::document::LARGEST;
    use super::*;
    use crate::case::{Case, Dtypes, Operation, SizeClass};

    #[test]
    fn a_tuning_of_everything_is_far_below_the_largest_file() {
        let longest = Plan::new(Backend::Avx512)
            .threads(4096)
            .chunk_elements(1 << 30)
            .parallel_threshold(1 << 30)
            .prefetch(Prefetch::Auto);
        let mut findings: Vec<Finding> = Vec::new();
        for &operation in Operation::ALL {
            for &parameter in Dtype::ALL {
                for &gradient in Dtype::ALL {
                    for &momentum in Dtype::ALL {
                        let dtypes = Dtypes { parameter, gradient, momentum };
                        if !dtypes.fit() {
                            continue;
                        }
                        findings.extend(SizeClass::all().map(|size| {
                            let case = Case::new(operation, dtypes, size);
                            let nanoseconds = Some(123_456_789_012.3);
                            Finding {
                                nanoseconds,
                                interval: nanoseconds.map(|it| [it, it]),
                                default_nanoseconds: nanoseconds,
                                ..Finding::of_default(case, longest)
                            }
                        }));
                    }
                }
            }
        }
        findings.sort_by_key(|finding| finding.case);
        findings.dedup_by_key(|finding| finding.case);
        let text = Document::new(&Machine::detect(), "patient", &findings).to_toml().expect("TOML");
        let share = LARGEST as usize / text.len();
        assert_eq!((findings.len(), share >= 2), (630, true), "{} bytes", text.len());
    }
}
