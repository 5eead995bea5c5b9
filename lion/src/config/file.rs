//! Reads an optimizer's config from a file: JSON, or the `.keras` file of a model.

use std::fs;
use std::io::Read;
use std::path::Path;

use lion_autotune::regular;

use super::Config;
use crate::{Error, first_bytes, zip};

/// The largest config that is read, in bytes: more than any model's config has.
const LARGEST: u64 = 16 << 20;
/// The member of a `.keras` file that [`Config::from_json`] reads.
const MEMBER: &str = "config.json";

const EXPECTED: &str = "Keras's JSON or a .keras file";
/// For an `.h5` file: reading it would need a large library.
const HDF5: &str = "is an HDF5 file; expected Keras's JSON or a .keras file. If it is a model's, this writes its JSON: \
                    python -c \"import h5py, sys; print(h5py.File(sys.argv[1]).attrs['training_config'])\" FILE";
const FOLDER: &str = "is a folder; expected Keras's JSON or a .keras file. From a SavedModel, \
                      json.dumps(model.get_compile_config()) writes the JSON in Python";

impl Config {
    /// Reads a file: Keras's JSON in UTF-8, as [`from_json`](Self::from_json) does, or the `.keras` file of a model, a zip
    /// file with that JSON as a member. Pipes and devices are refused, as reading them may block for ever.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read. [`Error::File`] if it is another kind of file, which the error names, or
    /// if `from_json` refuses its JSON.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let wrong = |reason: String| Error::File { file: path.into(), tensor: None, reason };
        let io = |action| move |reason| Error::Io { file: path.into(), tensor: None, action, reason };
        if fs::metadata(path).is_ok_and(|found| found.is_dir()) {
            return Err(wrong(FOLDER.into()));
        }
        let mut file = regular::open(path).map_err(io("cannot open"))?;
        let mut bytes = Vec::new();
        (&mut file).take(LARGEST + 1).read_to_end(&mut bytes).map_err(io("cannot read"))?;
        let mut within = String::new();
        if bytes.starts_with(zip::SIGNATURE) {
            let member = zip::member(&mut file, MEMBER, LARGEST)
                .map_err(|error| wrong(format!("is a zip file that cannot be read: {error}")))?;
            bytes = member.ok_or_else(|| {
                wrong(format!(
                    "is a zip file without {MEMBER}; expected {EXPECTED}: a model's .keras has one"
                ))
            })?;
            within = format!("{MEMBER}: ");
        }
        let text = text(bytes).map_err(|reason| wrong(within.clone() + &reason))?;
        let (config, notes) = Self::from_text(&text).map_err(|error| wrong(format!("{within}{error}")))?;
        for note in notes {
            log::warn!("{}: {within}{note}", path.display());
        }
        Ok(config)
    }
}

/// Returns the file's text, or the reason why it has none.
fn text(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.len() as u64 > LARGEST {
        return Err(format!("is not a config: it has more than {LARGEST} bytes"));
    }
    // Any text may be meant as JSON, and the JSON parser's error says more.
    let is_json =
        |bytes: &[u8]| bytes.trim_ascii_start().first().is_some_and(|first| b"{[\"\xef".contains(first));
    match first_bytes::kind(&bytes) {
        _ if is_json(&bytes) => {}
        _ if is_safetensors(&bytes) => {
            return Err(format!("is a safetensors file; expected {EXPECTED}"));
        }
        Some(kind) if kind.what == "an HDF5 file" => return Err(HDF5.into()),
        Some(kind) => return Err(kind.instead_of(EXPECTED)),
        None => {}
    }
    String::from_utf8(bytes).map_err(|error| format!("is not valid JSON: {error}"))
}

fn is_safetensors(bytes: &[u8]) -> bool {
    // The header's length in eight bytes, of which the last four are zero, and then the header.
    bytes.get(4..9) == Some(b"\0\0\0\0{")
}
