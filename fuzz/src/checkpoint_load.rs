//! Arbitrary bytes as a checkpoint. The reader returns an error or a checkpoint. Writing, reading and writing a
//! checkpoint again gives the same bytes.

use std::fs;

use lion::checkpoint::Checkpoint;

use crate::{JSON, bounded, scratch, tensor_file};

/// Runs the target on a fuzzer's bytes.
pub fn fuzz(bytes: &[u8]) {
    let (input, first, second) = (scratch("checkpoint"), scratch("first"), scratch("second"));
    let file = tensor_file(bytes);
    fs::write(&input, &file).expect("written");
    let Ok(checkpoint) = bounded(JSON, file.len(), || Checkpoint::read(&input)) else { return };
    // `write` syncs the file to the disk, which takes most of this target's time.
    checkpoint.write(&first).expect("what is read can be written");
    let again = Checkpoint::read(&first).expect("what is written can be read");
    assert_eq!(format!("{checkpoint:?}"), format!("{again:?}"));
    again.write(&second).expect("written");
    assert!(fs::read(&first).expect("there") == fs::read(&second).expect("there"));
}
