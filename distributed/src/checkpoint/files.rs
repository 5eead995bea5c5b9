//! The names of a checkpoint's files, and the removal of files that no index names any more.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};

use crate::Error;

/// One save of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The folder of the index.
    folder: PathBuf,
    /// The index's name without its extension.
    name: String,
    iterations: u64,
    /// 16 hexadecimal digits.
    pub(crate) id: String,
}

/// Hexadecimal digits of a run's id.
const DIGITS: usize = 16;
/// Lies between a file's own name and random letters in the name of a temporary file of [`lion_autotune::replace`].
const TEMPORARY: &str = ".lion-";

impl Run {
    /// # Errors
    /// A path that does not end in the name of a file, in UTF-8.
    pub(crate) fn new(index: &Path, iterations: u64, random: u64) -> Result<Self, Error> {
        let name = index.file_stem().and_then(|name| name.to_str()).filter(|_| index.extension().is_some());
        let Some(name) = name else {
            let reason =
                "is not the name of an index; expected one in UTF-8 with an extension, such as run.json";
            return Err(lion::Error::File { file: index.into(), tensor: None, reason: reason.into() }.into());
        };
        let id = format!("{random:0width$x}", width = DIGITS);
        Ok(Run { folder: folder(index), name: name.into(), iterations, id })
    }

    /// A number that no other save has.
    pub(crate) fn random() -> u64 {
        // The standard library's keys are random, and differ for each state.
        RandomState::new().build_hasher().finish()
    }

    /// The name of a rank's file.
    pub(crate) fn file_name(&self, rank: usize, ranks: usize) -> String {
        format!("{}-{}-{}-{rank}-of-{ranks}.safetensors", self.name, self.iterations, self.id)
    }

    pub(crate) fn path(&self, rank: usize, ranks: usize) -> PathBuf {
        self.folder.join(self.file_name(rank, ranks))
    }
}

/// The folder that a file is in.
pub(super) fn folder(path: &Path) -> PathBuf {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).into()
}

/// Whether a name is that of a run's file, under a name of an index.
pub(super) fn is_id(id: &str) -> bool {
    id.len() == DIGITS && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The id of the run whose file, or temporary file, has this name.
fn run_of<'f>(file: &'f str, name: &str) -> Option<&'f str> {
    let whole = match file.strip_prefix('.') {
        Some(temporary) if !file.starts_with(name) => {
            let (whole, random) = temporary.rsplit_once(TEMPORARY)?;
            random.ends_with(".tmp").then_some(whole)?
        }
        _ => file,
    };
    let rest = whole.strip_prefix(name)?.strip_prefix('-')?.strip_suffix(".safetensors")?;
    let mut parts = rest.split('-');
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (iterations, id, rank, of, ranks) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let matches = number(iterations) && is_id(id) && number(rank) && of == "of" && number(ranks);
    (matches && parts.next().is_none()).then_some(id)
}

/// Removes the files of other runs under the same index, while no rank writes any. A file that cannot be removed stays, with
/// a warning: the checkpoint is whole all the same.
pub(crate) fn sweep(run: &Run) {
    let warn = |file: &Path, error: std::io::Error| log::warn!("{}: cannot remove: {error}", file.display());
    let entries = match fs::read_dir(&run.folder) {
        Ok(entries) => entries,
        Err(error) => return warn(&run.folder, error),
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let other = name.to_str().and_then(|file| run_of(file, &run.name)).is_some_and(|id| id != run.id);
        if other && let Err(error) = fs::remove_file(entry.path()) {
            warn(&entry.path(), error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_index_are_swept() {
        let folder = tempfile::tempdir().expect("a folder");
        let index = folder.path().join("run.json");
        let old = Run::new(&index, 9, Run::random()).expect("a name");
        let new = Run::new(&index, 10, Run::random()).expect("a name");
        assert_ne!(old.id, new.id);
        let temporary = format!(".{}.lion-a1B2c3.tmp", old.file_name(1, 3));
        let gone = [old.file_name(0, 1), old.file_name(11, 12), temporary.clone()];
        let longer = Run::new(&folder.path().join("run-5.json"), 9, Run::random()).expect("a name");
        let stays = [
            new.file_name(0, 2),
            new.file_name(1, 2),
            format!(".{}.lion-a1B2c3.tmp", new.file_name(1, 2)),
            longer.file_name(0, 1),
            format!("{}.bak", old.file_name(0, 1)),
            old.file_name(0, 1).replace("-of-", "-in-"),
            old.file_name(0, 1).replace("safetensors", "json"),
            format!("x{}", old.file_name(0, 1)),
            format!("run-9-{}-0-of-1.safetensors", &old.id[1..]),
            temporary.trim_end_matches(".tmp").into(),
            "run.json".into(),
        ];
        for name in gone.iter().chain(&stays) {
            fs::write(folder.path().join(name), "x").expect("written");
        }
        sweep(&new);
        let exists = |name: &String| folder.path().join(name).exists();
        assert_eq!(gone.iter().filter(|name| exists(name)).collect::<Vec<_>>(), Vec::<&String>::new());
        assert_eq!(stays.iter().filter(|name| !exists(name)).collect::<Vec<_>>(), Vec::<&String>::new());
    }

    #[test]
    fn an_index_has_a_name_and_an_extension() {
        for wrong in ["", "/", "..", "run", "a/.json", "a/.."] {
            assert!(Run::new(Path::new(wrong), 0, 0).is_err(), "{wrong:?}");
        }
        let run = Run::new(Path::new("run.1.json"), 3, 0xabc).expect("a name");
        assert_eq!(run.path(0, 2), Path::new("./run.1-3-0000000000000abc-0-of-2.safetensors"));
    }
}
