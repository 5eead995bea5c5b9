//! Recognises a file by its first bytes, for errors that name the kind of an unexpected file.

/// The number of bytes that [`kind`] looks at.
pub(crate) const LONGEST: usize = 64;

/// The kind of a file, and a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The kind, with its article.
    pub(crate) what: String,
    /// The remedy, or empty.
    pub(crate) advice: &'static str,
}

const DOWNLOAD: &str =
    "it was downloaded in place of the file: check the address, and whether it asks for a login";
const UNPACK: &str = "unpack it first";

/// Rows: the first bytes, the kind, the remedy.
const SIGNATURES: [(&[u8], &str, &str); 16] = [
    (b"version https://git-lfs", "a git-lfs pointer", "git lfs pull fetches the file that it stands for"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", ""),
    (
        b"PK\x03\x04",
        "a zip file",
        "PyTorch's .pt, Keras's .keras and NumPy's .npz are such: save its tensors as safetensors",
    ),
    (b"PK\x05\x06", "an empty zip file", ""),
    (b"\x80\x02", "a Python pickle", "load it in Python and save its tensors as safetensors"),
    (b"\x80\x03", "a Python pickle", "load it in Python and save its tensors as safetensors"),
    (b"\x80\x04", "a Python pickle", "load it in Python and save its tensors as safetensors"),
    (b"\x80\x05", "a Python pickle", "load it in Python and save its tensors as safetensors"),
    (b"\x93NUMPY", "a NumPy array", "save it as safetensors"),
    (b"GGUF", "a GGUF file", ""),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", UNPACK),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
];

/// Returns the kind of a file with these first bytes, if it is known. Do not call it for a valid safetensors file, which
/// can begin with any two bytes.
pub(crate) fn kind(first: &[u8]) -> Option<Kind> {
    let first = first.get(..LONGEST).unwrap_or(first);
    let known = |what: &str, advice| Some(Kind { what: what.into(), advice });
    if let Some((_, what, advice)) = SIGNATURES.iter().find(|(start, ..)| first.starts_with(start)) {
        return known(what, advice);
    }
    if first.len() >= 8 && first.iter().all(|&byte| byte == 0) {
        return known("a file that begins with zeros", "it may still be being written");
    }
    let text = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first).trim_ascii_start();
    let lower = text.to_ascii_lowercase();
    match lower.as_slice() {
        text if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") => {
            known("an HTML page", DOWNLOAD)
        }
        text if text.starts_with(b"<?xml") || text.starts_with(b"<error") => {
            known("an XML document", DOWNLOAD)
        }
        text if text.starts_with(b"{") || text.starts_with(b"[") => {
            known("JSON text", "an index names the files that hold the tensors")
        }
        _ => {
            let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end();
            let printable = |&byte: &u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
            let is_text = line.len() >= 8 && line.iter().all(printable);
            is_text.then(|| Kind { what: format!("text: {:?}", String::from_utf8_lossy(line)), advice: "" })
        }
    }
}

impl Kind {
    /// Returns an error's reason that names the expected kind of file.
    pub(crate) fn instead_of(&self, expected: &str) -> String {
        let Kind { what, advice } = self;
        match *advice {
            "" => format!("is {what}; expected {expected}"),
            advice => format!("is {what}; expected {expected} ({advice})"),
        }
    }
}
