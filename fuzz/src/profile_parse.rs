//! Arbitrary text as a profile. The reader returns an error of one line or a profile. Writing and reading a profile
//! again gives the same profile, and its plans use only backends of this machine.

use lion_autotune::{Document, Dtypes, Machine, Operation, Profile};
use lion_kernels::{Dtype, STATISTICS_BLOCK};

use crate::{TOML, read};

/// A run over a fuzzer's bytes.
pub fn fuzz(bytes: &[u8]) {
    let Some((text, document)) = read(TOML, bytes, Document::parse) else { return };
    let written = document.to_toml().expect("what is read can be written");
    let again = Document::parse(&written).expect("what is written can be read");
    assert_eq!(written, again.to_toml().expect("written"));

    // As it is, it is mostly of another machine; its plans are tried as if they had been made here.
    let _ = Profile::from_str(text);
    let mut here = Document::new(&Machine::detect(), &document.level, &[]);
    here.entries = document.entries;
    let profile = Profile::from_str(&here.to_toml().expect("written")).expect("of this machine");
    for &operation in Operation::ALL {
        for &dtype in Dtype::ALL {
            for bytes in [0, 1 << 12, 1 << 20, 1 << 26, usize::MAX] {
                let plan = profile.plan(operation, Dtypes::all(dtype), bytes);
                assert!(plan.backend.is_available());
                assert!(
                    plan.chunk_elements >= STATISTICS_BLOCK
                        && plan.chunk_elements.is_multiple_of(STATISTICS_BLOCK)
                );
            }
        }
    }
}
