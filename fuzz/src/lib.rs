//! Fuzz targets, each a function of a fuzzer's bytes, and shared helpers: files made from such bytes, and a meter of
//! the time and memory that reading them takes.
//!
//! libFuzzer calls the targets from `fuzz_targets`, with the feature `libfuzzer`. Without the feature, the tests run
//! every committed input through its target, on any compiler and machine.

pub mod checkpoint_index;
pub mod checkpoint_load;
pub mod keras_config;
pub mod optimizer_vs_model;
pub mod profile_parse;
pub mod replay_input;
pub mod schedule;
pub mod step_vs_reference;

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use lion_tests::counting::{Counting, peak_of};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

#[global_allocator]
static COUNTING: Counting = Counting;

/// What reading may have allocated at any time, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Whatever the input is.
    base: usize,
    /// For each byte of the input.
    multiple: usize,
}

/// Of a tensor file or other JSON: a byte can be a whole value of a list, of 32 bytes, and a list that grows has room
/// for as many again.
pub const JSON: Bound = Bound { base: 256 << 10, multiple: 100 };

/// Of a config, whose patterns are compiled one at a time, each to a few automata of up to 1 MiB.
pub const CONFIG: Bound = Bound { base: 8 << 20, ..JSON };

/// Of a profile: of each character of a dotted key the TOML parser keeps a token, an event and a part of the key, in
/// lists that grow.
pub const TOML: Bound = Bound { multiple: 400, ..JSON };

/// Does something with `input` bytes of input, and fails where it takes more than a second, or has more than
/// `bound` allocated at any time.
pub fn bounded<T>(bound: Bound, input: usize, work: impl FnOnce() -> T) -> T {
    let start = processor_time();
    let (done, taken) = peak_of(work);
    let time = processor_time() - start;
    assert!(time < Duration::from_secs(1), "{time:?} for an input of {input}");
    assert!(taken <= bound.base + bound.multiple * input, "{taken} bytes for an input of {input}");
    done
}

/// What a fuzzer's bytes are as a text, and what that is read as; `None` where it is refused, which must be in one
/// line.
pub fn read<T, E: Display>(
    bound: Bound,
    bytes: &[u8],
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Option<(&str, T)> {
    let text = str::from_utf8(bytes).ok()?;
    match bounded(bound, text.len(), || parse(text)) {
        Ok(found) => Some((text, found)),
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains(['\n', '\r']), "{message:?}");
            None
        }
    }
}

/// Of this thread, which other work of the machine does not count towards.
fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// A tensor file of a fuzzer's bytes. An even first byte says that the rest is the file; with an odd one the rest is
/// the text of a header, to which come its length and as many bytes of data as the text's own `data_offsets` go to, so
/// that changes of the text do not all end at the length.
pub fn tensor_file(bytes: &[u8]) -> Vec<u8> {
    let Some((mode, rest)) = bytes.split_first() else { return Vec::new() };
    if mode % 2 == 0 {
        return rest.to_vec();
    }
    let mut file = (rest.len() as u64).to_le_bytes().to_vec();
    file.extend(rest);
    let data = (0..last_offset(rest)).map(|place| (place as u8).wrapping_mul(37));
    file.extend(data);
    file
}

/// The largest number before `]}`, where it is not a large one.
fn last_offset(header: &[u8]) -> usize {
    const LARGEST: usize = 1 << 12;
    let ends = header.windows(2).enumerate().filter(|(_, pair)| *pair == b"]}").map(|(place, _)| place);
    let numbers = ends.filter_map(|end| {
        let digits = header[..end].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&header[end - digits..end]).ok()?.parse::<usize>().ok()
    });
    numbers.filter(|&number| number <= LARGEST).max().unwrap_or(0)
}

/// The path of a scratch file, in memory where the machine has a file system there.
pub fn scratch(name: &str) -> PathBuf {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder to work in")
    });
    folder.path().join(name)
}
