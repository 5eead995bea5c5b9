//! Any bytes as a checkpoint: read or refused, and what is read can be written and read again, to the same bytes.

use std::fs;

use lion::checkpoint::Checkpoint;

use crate::{JSON, bounded, scratch, tensor_file};

/// A run over a fuzzer's bytes.
pub fn fuzz(bytes: &[u8]) {
    let (input, first, second) = (scratch("checkpoint"), scratch("first"), scratch("second"));
    let file = tensor_file(bytes);
    fs::write(&input, &file).expect("written");
    let Ok(checkpoint) = bounded(JSON, file.len(), || Checkpoint::read(&input)) else { return };
    // The library's own writer brings the file to the disk first, which is what takes the time here.
    checkpoint.write(&first).expect("what is read can be written");
    let again = Checkpoint::read(&first).expect("what is written can be read");
    assert_eq!(format!("{checkpoint:?}"), format!("{again:?}"));
    again.write(&second).expect("written");
    assert!(fs::read(&first).expect("there") == fs::read(&second).expect("there"));
}
