//! Hostile files: foreign, truncated, with any bit flipped, or with false sizes. Each reads successfully or returns an
//! error of one line that names the file. Neither takes more memory than a small multiple of the file.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use lion::Config;
use lion::checkpoint::Checkpoint;
use lion::replay::Recording;
use lion::tensor_file::TensorFile;
use lion_tests::counting::{Counting, peak_of};
use lion_tests::safetensors::file;
use tempfile::{TempDir, tempdir};

#[global_allocator]
static COUNTING: Counting = Counting;

fn golden(case: &str, file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/cases").join(case).join(file)
}

/// What reading gives, which is of no more memory than `len` bytes of input call for.
#[track_caller]
fn within_bounds<T, E: Display>(len: usize, read: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    let (read, peak) = peak_of(read);
    assert!(peak <= (64 << 10) + 100 * len, "{peak} bytes of memory for {len} bytes");
    read.map_err(|error| {
        let message = error.to_string();
        assert!(!message.contains(['\n', '\r']) && message.len() < 2000, "{message:?}");
        message
    })
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempdir().expect("a folder"))
    }

    /// Everything that reads tensor files, on these bytes: what each of them says where it refuses them.
    #[track_caller]
    fn read_all(&self, bytes: &[u8]) -> Vec<Option<String>> {
        let path = self.0.path().join("x.safetensors");
        fs::write(&path, bytes).expect("written");
        let results = [
            within_bounds(bytes.len(), || Checkpoint::read(&path).map(drop)),
            within_bounds(bytes.len(), || Recording::open(&path).and_then(|it| it.parameters()).map(drop)),
            within_bounds(bytes.len(), || TensorFile::open_lenient(&path).map(drop)),
        ];
        let refusals = results.into_iter().map(|result| {
            let message = result.err()?;
            assert!(message.starts_with(&format!("{}: ", path.display())), "{message}");
            Some(message)
        });
        refusals.collect()
    }
}

#[test]
fn files_cut_anywhere() {
    let folder = Folder::new();
    for name in ["result.safetensors", "run.safetensors"] {
        let whole = fs::read(golden("names_like_steps", name)).expect("bytes");
        assert!(folder.read_all(&whole).iter().any(Option::is_none));
        for len in 0..whole.len() {
            assert!(folder.read_all(&whole[..len]).iter().all(Option::is_some), "{name}, {len} bytes");
        }
    }
}

#[test]
fn files_with_any_bit_changed() {
    let folder = Folder::new();
    for (case, name) in
        [("dynamic_scale_to_zero", "result.safetensors"), ("subnormal_state", "run.safetensors")]
    {
        let mut bytes = fs::read(golden(case, name)).expect("bytes");
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
        // What comes after the header is numbers, each as good as any.
        for bit in 0..header * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            folder.read_all(&bytes);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn headers_that_ask_for_memory() {
    let folder = Folder::new();
    let length = |claimed: u64| claimed.to_le_bytes().to_vec();
    let many = |count: usize, text: &str| vec![text; count].join(",");
    let tensor = |shape: &str, end: &str| {
        format!("{{\"param/a\":{{\"dtype\":\"F32\",\"shape\":[{shape}],\"data_offsets\":[0,{end}]}}}}")
    };
    for bytes in [
        length(u64::MAX),
        length(99_999_999),
        [length(1 << 40), b"{}".to_vec()].concat(),
        file(&tensor("4611686018427387903", "18446744073709551612"), b""),
        file(&tensor("1099511627776", "4398046511104"), &[0; 64]),
        file(&tensor("4294967296,4294967296,0", "0"), &[0; 8]),
        file(&tensor(&many(50_000, "1"), "4"), &[0; 8]),
        file(&"[".repeat(100_000), b""),
        file(&format!("{{\"__metadata__\":{}", "{\"a\":".repeat(100_000)), b""),
    ] {
        let refusals = folder.read_all(&bytes);
        assert!(refusals.iter().all(Option::is_some), "{refusals:?}");
    }
    // A shape that is long and true.
    let long = file(&tensor(&many(50_000, "1"), "4"), &[0; 4]);
    assert_eq!(folder.read_all(&long)[1..], [None, None]);
    // Small tensors in great numbers.
    let entry = |i: usize| {
        let dot = format!(
            "\"param/{i}\":{{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[{},{}]}}",
            2 * i,
            2 * i + 2
        );
        dot
    };
    let entries: Vec<_> = (0..20_000).map(entry).collect();
    let crowd = file(&format!("{{{}}}", entries.join(",")), &[0; 40_000]);
    assert_eq!(folder.read_all(&crowd)[1..], [None, None]);
}

#[test]
fn configs_with_any_bit_changed() {
    for case in ["everything", "dynamic_everything", "schedule_polynomial"] {
        let text = fs::read_to_string(golden(case, "config.json")).expect("a config");
        let text = serde_json::from_str::<serde_json::Value>(&text).expect("JSON").to_string();
        let mut read = 0;
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // Others are no text.
            if let Ok(changed) = String::from_utf8(bytes) {
                read += u32::from(within_bounds(changed.len(), || Config::from_json(&changed)).is_ok());
            }
        }
        // Names, and some numbers.
        assert!(read > 0 && read < 8 * text.len() as u32 / 4, "{read} of {case} were read");
    }
}

#[test]
fn configs_that_ask_for_memory() {
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(50_000), close.repeat(50_000));
    let schedule = |within: &str| {
        format!("{{\"learning_rate\":{{\"class_name\":\"PiecewiseConstantDecay\",\"config\":{within}}}}}")
    };
    let zeros = vec!["0"; 100_000].join(",");
    for text in [
        deep("[", "]"),
        deep("{\"a\":", "}"),
        format!("[{zeros}]"),
        format!("{{\"beta_1\":[{zeros}]}}"),
        format!("{{\"name\":\"{}\",\"beta_1\":2}}", "n".repeat(500_000)),
        format!("{{\"{}\":1}}", "k".repeat(500_000)),
        schedule(&format!("{{\"boundaries\":[{zeros}],\"values\":[{zeros}]}}")),
    ] {
        within_bounds(text.len(), || Config::from_json(&text)).expect_err("refused");
    }
    let text = schedule(&format!("{{\"boundaries\":[{zeros}],\"values\":[{zeros},0]}}"));
    within_bounds(text.len(), || Config::from_json(&text)).expect("as long as it is, it is one");
}
