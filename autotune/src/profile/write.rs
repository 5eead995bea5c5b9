//! Creates a profile from measurements, and writes it.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::document::{Document, Entry, Kernels, SCHEMA};
use crate::candidate::{KERNELS_REVISION, checksum};
use crate::machine::Machine;
use crate::search::CaseResult;
use crate::{Error, replace};

impl Document {
    /// Creates the profile of a machine from the results of a tuner.
    pub fn new(machine: &Machine, level: &str, results: &[CaseResult]) -> Self {
        let rounded = |ns: f64| (ns * 10.0).round() / 10.0;
        let entry = |result: &CaseResult| Entry {
            operation: result.case.operation,
            dtypes: result.case.dtypes,
            size: result.case.size_class(),
            plan: result.plan.into(),
            nanoseconds: result.nanoseconds.map(rounded),
            interval: result.interval.map(|it| it.map(rounded)),
            default_nanoseconds: result.baseline_nanoseconds.map(rounded),
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
            entries: results.iter().map(entry).collect(),
        }
    }

    /// Returns the text of the file.
    ///
    /// # Errors
    /// Returns [`Error::Syntax`] if a number is too large for TOML.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self).map_err(|error| Error::Syntax { reason: error.to_string() })
    }
}

/// Writes a profile atomically, and creates its folder.
///
/// # Errors
/// Returns [`Error::File`] if the file cannot be written, and [`Error::Syntax`] if the profile cannot be written as TOML.
pub fn write(document: &Document, path: &Path) -> Result<(), Error> {
    write_text(&document.to_toml()?, path)
}

/// Writes a text atomically, by [`replace()`](replace::replace), and creates its folder.
///
/// # Errors
/// Returns [`Error::File`] if the file cannot be written.
pub fn write_text(text: &str, path: &Path) -> Result<(), Error> {
    create_folder(path)?;
    replace::replace(path, |file| file.write_all(text.as_bytes())).map_err(failed(path, "write"))
}

/// Creates the folder of a profile, and checks that the profile can be written there. Called before a long measurement.
///
/// # Errors
/// Returns [`Error::File`] if the profile cannot be written.
pub fn can_write(path: &Path) -> Result<(), Error> {
    create_folder(path)?;
    replace::rehearse(path).map_err(failed(path, "write"))
}

fn create_folder(path: &Path) -> Result<(), Error> {
    let target = replace::resolve(path).map_err(failed(path, "write"))?;
    match target.parent() {
        Some(folder) => fs::create_dir_all(folder).map_err(failed(path, "create its folder")),
        None => Ok(()),
    }
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |reason| Error::File { path: path.into(), action, reason }
}

#[cfg(test)]
mod tests {
    use lion_kernels::{Backend, Dtype, Plan, Prefetch};

    use super::super::document::MAX_BYTES;
    use super::*;
    use crate::case::{Case, Dtypes, Operation, SizeClass};

    #[test]
    fn a_tuning_of_everything_is_far_below_the_maximum_size() {
        let longest = Plan::new(Backend::Avx512Bf16)
            .threads(4096)
            .chunk_elements(1 << 30)
            .parallel_threshold(1 << 30)
            .prefetch(Prefetch::Auto);
        let mut results: Vec<CaseResult> = Vec::new();
        for &operation in Operation::ALL {
            for &parameter in Dtype::ALL {
                for &gradient in Dtype::ALL {
                    for &momentum in Dtype::ALL {
                        let dtypes = Dtypes { parameter, gradient, momentum };
                        if !dtypes.fit() {
                            continue;
                        }
                        results.extend(SizeClass::all().map(|size| {
                            let case = Case::new(operation, dtypes, size);
                            let nanoseconds = Some(123_456_789_012.3);
                            CaseResult {
                                nanoseconds,
                                interval: nanoseconds.map(|it| [it, it]),
                                baseline_nanoseconds: nanoseconds,
                                ..CaseResult::of_baseline(case, longest)
                            }
                        }));
                    }
                }
            }
        }
        results.sort_by_key(|result| result.case);
        results.dedup_by_key(|result| result.case);
        let text = Document::new(&Machine::detect(), "patient", &results).to_toml().expect("TOML");
        let share = MAX_BYTES as usize / text.len();
        assert_eq!((results.len(), share >= 2), (630, true), "{} bytes", text.len());
    }
}
