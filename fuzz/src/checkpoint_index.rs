//! Arbitrary text as the index of a sharded checkpoint. The reader returns an error of one line, or an index in which
//! each element of each variable belongs to one part. Writing and reading the index again gives the same index.

use std::path::Path;

use lion_distributed::checkpoint::Index;

use crate::{JSON, read};

/// More elements are not counted one by one.
const MOST: usize = 1 << 12;

/// A run over a fuzzer's bytes.
pub fn fuzz(bytes: &[u8]) {
    let parse = |text: &str| Index::from_json(Path::new("index.json"), text);
    let Some((_, index)) = read(JSON, bytes, parse) else { return };
    for (number, variable) in index.variables.iter().enumerate() {
        let len = if variable.shape.contains(&0) { 0 } else { variable.shape.iter().product() };
        let parts = index.files.iter().flat_map(|file| &file.parts).filter(|part| part.0 == number);
        let elements = parts.clone().map(|&(_, start, end)| end - start).sum::<usize>();
        assert_eq!(elements, len, "{variable:?}");
        if len <= MOST {
            let mut owners = vec![0; len];
            for &(_, start, end) in parts {
                owners[start..end].iter_mut().for_each(|owners| *owners += 1);
            }
            assert!(owners.iter().all(|&owners| owners == 1), "{variable:?}");
        }
    }
    assert!(index.files.iter().all(|file| !file.file.contains(['/', '\0']) && file.file != ".."));
    assert_eq!(parse(&index.to_json()).ok(), Some(index));
}
