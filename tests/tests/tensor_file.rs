//! Tensor files: a written file reads back, and arbitrary bytes read successfully or return an error with a reason.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use lion::tensor_file::{self, Entry, TensorFile};
use lion::{TensorBuf, TensorRef};
use lion_tests::safetensors::{file, zeros};
use lion_tests::{Sample, with_sample};
use tempfile::{TempDir, tempdir};

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempdir().expect("a folder"))
    }

    fn write(&self, bytes: &[u8]) -> std::path::PathBuf {
        let path = self.0.path().join("x.safetensors");
        fs::write(&path, bytes).expect("written");
        path
    }

    /// What the reader says of these bytes, without the path that it begins with.
    fn refusal(&self, bytes: &[u8]) -> String {
        let path = self.write(bytes);
        let message = TensorFile::open(&path).map(|_| ()).expect_err("refused").to_string();
        assert!(!message.contains('\n'), "{message:?}");
        let rest = message.strip_prefix(&format!("{}: ", path.display()));
        rest.unwrap_or_else(|| panic!("{message:?} does not name the file")).to_owned()
    }
}

/// Reads every tensor of a file that has been accepted, and says how many bytes they are.
fn read_all(file: &TensorFile) -> usize {
    let mut bytes = 0;
    for tensor in file.tensors() {
        let values = file.read_values(tensor).expect("its data has been checked to be there");
        assert_eq!(values.len(), tensor.shape().iter().product::<usize>());
        bytes += values.len() * values.dtype().size();
    }
    bytes
}

fn bits(values: TensorRef<'_>) -> Vec<u32> {
    with_sample!(values.dtype(), T => {
        values.as_slice::<T>().expect("its dtype").iter().map(|x| x.low_bits()).collect()
    })
}

#[test]
fn what_is_written_is_read() {
    let folder = Folder::new();
    let path = folder.0.path().join("all.safetensors");
    let single = [0.0, -0.0, 1.5, f32::NAN, f32::INFINITY, f32::from_bits(1)];
    let halves: Vec<_> = (0..=u16::MAX).map(f16::from_bits).collect();
    let brains: Vec<_> = (0..=u16::MAX).map(bf16::from_bits).collect();
    let odd = &brains[..3];
    let entries = [
        Entry { name: "a", shape: &[3], values: odd.into() },
        Entry { name: "z/ü \"quoted\"\n.w", shape: &[1, 6, 1], values: (&single[..]).into() },
        Entry { name: "halves", shape: &[256, 256], values: (&halves).into() },
        Entry { name: "brains", shape: &[65536], values: (&brains).into() },
        Entry { name: "scalar", shape: &[], values: (&single[..1]).into() },
        Entry { name: "empty", shape: &[5, 0], values: (&single[..0]).into() },
    ];
    let metadata = [("iterations", "3"), ("text", "a \"quoted\"\nline")];
    tensor_file::write(&path, &entries, &metadata).expect("written");
    let first = fs::read(&path).expect("bytes");
    let read = TensorFile::open(&path).expect("valid");
    assert_eq!(read.tensors().len(), entries.len());
    assert!(read.tensors().windows(2).all(|pair| pair[0].name() < pair[1].name()));
    assert!(read.metadata_entries().eq(metadata));
    for entry in &entries {
        let tensor = read.find(entry.name).expect("there");
        assert_eq!(tensor.shape(), entry.shape);
        let values: TensorBuf = read.read_values(tensor).expect("read");
        assert_eq!(values.dtype(), entry.values.dtype());
        assert_eq!(bits(values.to_ref()), bits(entry.values), "{}", entry.name);
    }
    assert_eq!(read.find("b"), None);
    let mut short = [0.0_f32; 5];
    let error = read.read(&read.tensors()[5].clone(), &mut short[..]).expect_err("too short").to_string();
    assert!(error.contains("is 6 elements of f32; the destination has 5 of f32"), "{error}");

    // The order of the entries makes no difference; the file is aligned, and alone in its folder.
    let mut reversed = entries;
    reversed.reverse();
    tensor_file::write(&path, &reversed, &metadata).expect("written again");
    assert_eq!(fs::read(&path).expect("bytes"), first);
    assert_eq!(u64::from_le_bytes(first[..8].try_into().expect("eight")) % 8, 0);
    assert_eq!(fs::read_dir(folder.0.path()).expect("listed").count(), 1);
}

#[test]
fn what_cannot_be_written_leaves_the_old_file() {
    let folder = Folder::new();
    let path = folder.write(b"old");
    let one = [1.0_f32];
    let entry = |name, shape| Entry { name, shape, values: (&one[..]).into() };
    let refused = |entries: &[Entry<'_>], metadata: &[(&str, &str)], expected: &str| {
        let error = tensor_file::write(&path, entries, metadata).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(fs::read(&path).expect("there"), b"old");
    };
    refused(&[entry("a", &[1]), entry("a", &[1])], &[], "a: the name is reserved or taken");
    refused(&[entry("__metadata__", &[1])], &[], "the name is reserved or taken");
    refused(&[entry("a", &[2])], &[], "a: the shape [2] does not have its 1 elements");
    refused(&[entry("a", &[usize::MAX, 2])], &[], "does not have its 1 elements");
    refused(&[entry("a", &[])], &[("k", "1"), ("k", "2")], "duplicate metadata key");
    let entries = [entry("a", &[])];
    for (path, expected) in [
        (folder.0.path().to_owned(), "is not a regular file"),
        (folder.0.path().join("missing").join("x"), "cannot write"),
        (Path::new("/dev/null").to_owned(), "is not a regular file"),
    ] {
        let error = tensor_file::write(&path, &entries, &[]).expect_err("refused").to_string();
        assert!(error.starts_with(&format!("{}: ", path.display())) && error.contains(expected), "{error}");
    }
    assert_eq!(fs::read_dir(folder.0.path()).expect("listed").count(), 1);
}

#[test]
fn every_truncation_is_refused() {
    let folder = Folder::new();
    let whole = zeros(&[("a", 3), ("b.c", 2), ("d", 1)]);
    for len in 0..whole.len() {
        folder.refusal(&whole[..len]);
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(folder.refusal(&longer).contains("the tensors end at byte 24 of the data, and the file has 25"));
    assert_eq!(read_all(&TensorFile::open(folder.write(&whole)).expect("whole")), 24);
}

#[test]
fn every_flipped_bit_of_a_header() {
    let folder = Folder::new();
    let values = [1.0_f32, 2.0, 3.0];
    let path = folder.0.path().join("x.safetensors");
    let half = [f16::ONE; 2];
    let entries = [
        Entry { name: "w", shape: &[3, 1], values: (&values[..]).into() },
        Entry { name: "v", shape: &[2], values: (&half[..]).into() },
    ];
    tensor_file::write(&path, &entries, &[("k", "v")]).expect("written");
    let whole = fs::read(&path).expect("bytes");
    let data = 16;
    for at in 0..whole.len() - data {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            let path = folder.write(&flipped);
            match TensorFile::open(&path) {
                Ok(file) => assert_eq!(read_all(&file), data, "byte {at}, bit {bit}"),
                Err(error) => {
                    let message = error.to_string();
                    assert!(message.starts_with(&format!("{}: ", path.display())), "{message}");
                    assert!(!message.contains('\n') && message.len() < 1000, "{message}");
                }
            }
        }
    }
}

const CUT: &str = "it was cut short, or is still being written";

/// As they are found in the place of a file of tensors, and not as a header of 10^18 bytes.
#[test]
fn other_files_are_named() {
    let folder = Folder::new();
    let found = |name: &str| {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("found").join(name)).expect("a file")
    };
    // torch.save wrote the first of pickles until it wrote zip files.
    let pickle = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    for (bytes, expected) in [
        (
            found("reports/git-lfs.safetensors"),
            "is a git-lfs pointer; expected a safetensors file (git lfs pull",
        ),
        (
            found("reports/page.safetensors"),
            "is an HTML page; expected a safetensors file (it was downloaded",
        ),
        (found("keras3/model.keras"), "is a zip file; expected a safetensors file (PyTorch's .pt"),
        (found("keras3/model.h5"), "is an HDF5 file; expected a safetensors file"),
        (found("keras3/compile_config.json"), "is JSON text; expected a safetensors file (an index names"),
        (pickle.to_vec(), "is a Python pickle; expected a safetensors file (load it in Python"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'".to_vec(), "is a NumPy array; expected a safetensors file"),
        (b"Not Found: no such model\n".to_vec(), "is text: \"Not Found: no such model\"; expected"),
    ] {
        let message = folder.refusal(&bytes);
        assert!(message.starts_with(expected), "{message}");
    }
    // A length may begin as a pickle does.
    let name = "x".repeat(0x280 - r#"{"__metadata__":{"":""}}"#.len());
    let whole = file(&format!(r#"{{"__metadata__":{{"":"{name}"}}}}"#), b"");
    assert!(whole.starts_with(b"\x80\x02"));
    assert!(TensorFile::open(folder.write(&whole)).is_ok());
}

/// The file is whole when it is opened.
#[test]
fn a_file_that_is_cut_while_it_is_read() {
    let folder = Folder::new();
    let header = r#"{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
    let bytes = file(header, &[0; 16]);
    let path = folder.write(&bytes);
    let whole = TensorFile::open(&path).expect("whole");
    let (end, left) = (bytes.len(), bytes.len() - 10);
    fs::File::options().write(true).open(&path).and_then(|file| file.set_len(left as u64)).expect("cut");
    let error = whole.read_values(whole.find("w").expect("there")).map(|_| ()).expect_err("cut");
    let expected = format!(
        "{}: w: ended early while it was read, before byte {end}: the file now has {left} bytes; {CUT}",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
    let cut = format!("w: its data_offsets are [0, 16], and the file has data for [0, 6]; {CUT}");
    assert_eq!(folder.refusal(&bytes[..left]), cut);
}

/// Of a million tensors the names do not fit in the header that the format allows.
#[test]
fn more_tensors_than_a_header_holds() {
    let folder = Folder::new();
    let path = folder.0.path().join("run.safetensors");
    let header = fs::File::create(&path).expect("a file");
    let length = 100_000_008_u64;
    // A hole in place of the rest, which is not read.
    std::io::Write::write_all(&mut &header, &[&length.to_le_bytes()[..], b"{"].concat()).expect("written");
    header.set_len(8 + length).expect("long");
    let expected = "its header claims 100000008 bytes, and may have 100000000, which is about a million tensors: split a \
                    run into files of fewer steps, each with all param/<name> and from grad/0 on, and replay each with \
                    --state, the result of the one before it";
    let error = TensorFile::open(&path).map(|_| ()).expect_err("too long").to_string();
    assert_eq!(error, format!("{}: {expected}", path.display()));
}

#[test]
fn headers_that_lie() {
    let folder = Folder::new();
    let claims = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    for length in [3, 8, 100_000_000] {
        let expected = format!("its header claims {length} bytes, and the file has 2 more; {CUT}");
        assert_eq!(folder.refusal(&claims(length)), expected);
    }
    for length in [100_000_001, u64::MAX] {
        assert!(folder.refusal(&claims(length)).ends_with("and may have 100000000"));
    }
    let empty = format!("has 0 bytes, and the length of a header takes 8; {CUT}");
    assert_eq!(folder.refusal(b""), empty);
    let zeros =
        "is a file that begins with zeros; expected a safetensors file (it may still be being written)";
    assert_eq!(folder.refusal(&file("", b"")), zeros);
    assert!(folder.refusal(&file("[]", b"")).contains("does not begin with {"));
    assert!(TensorFile::open(folder.write(&file("{}", b""))).expect("none").tensors().is_empty());

    let entry = |rest: &str| file(&format!("{{\"w\":{{{rest}}}}}"), &[0; 8]);
    let whole = r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#;
    assert_eq!(read_all(&TensorFile::open(folder.write(&entry(whole))).expect("whole")), 8);
    for (from, to, expected) in [
        ("[2]", "[3]", "f32 of shape [3] is 12 bytes, and its data has 8"),
        ("[2]", "[18446744073709551615,2]", "more bytes than fit in 64 bits"),
        ("[2]", "[4611686018427387905]", "more bytes than fit in 64 bits"),
        ("[2]", "[0,18446744073709551615]", "is 0 bytes, and its data has 8"),
        ("[2]", "[-2]", "the header is not valid: invalid value"),
        ("[2]", "[2.0]", "the header is not valid: invalid type"),
        ("[2]", "[18446744073709551616]", "the header is not valid"),
        ("[2]", "2", "the header is not valid: invalid type"),
        ("[0,8]", "[0,9]", "its data_offsets are [0, 9], and the file has data for [0, 8]"),
        ("[0,8]", "[8,0]", "its data_offsets are [8, 0]"),
        ("[0,8]", "[0,18446744073709551615]", "and the file has data for [0, 8]"),
        ("[0,8]", "[4,8]", "comes after a gap: its data begins at 4"),
        ("[0,8]", "[0,8,8]", "the header is not valid"),
        ("[0,8]", "[0]", "the header is not valid"),
        ("F32", "F64", "its dtype is \"F64\", and must be one of F32, F16, BF16, I16, I8"),
        ("F32", "I64", "its dtype is \"I64\""),
        ("F32", "f32", "its dtype is \"f32\""),
        ("\"dtype\":\"F32\",", "", "missing field `dtype`"),
        (",\"data_offsets\":[0,8]", "", "missing field `data_offsets`"),
        ("\"shape\":[2],", "\"shape\":[2],\"shape\":[2],", "duplicate field `shape`"),
        ("\"shape\"", "\"size\"", "unknown field `size`, expected one of `dtype`, `shape`, `data_offsets`"),
    ] {
        let message = folder.refusal(&entry(&whole.replace(from, to)));
        assert!(message.starts_with("w: ") && message.contains(expected), "{from} -> {to}: {message}");
    }
    let as_list = file(r#"{"w":["F32",[2],[0,8]]}"#, &[0; 8]);
    assert!(folder.refusal(&as_list).starts_with("w: the header is not valid"));
}

#[test]
fn tensors_that_are_not_side_by_side() {
    let folder = Folder::new();
    let pair = |a: &str, b: &str, first: [u64; 2], second: [u64; 2]| {
        let entry = |name: &str, [begin, end]: [u64; 2]| {
            let len = (end - begin) / 4;
            format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":[{len}],\"data_offsets\":[{begin},{end}]}}")
        };
        file(&format!("{{{},{}}}", entry(a, first), entry(b, second)), &[0; 16])
    };
    let overlap = folder.refusal(&pair("a", "b", [0, 8], [4, 16]));
    assert_eq!(overlap, "b: overlaps another tensor: its data begins at 4, and that before ends at 8");
    let gap = folder.refusal(&pair("a", "b", [0, 8], [12, 16]));
    assert_eq!(gap, "b: comes after a gap: its data begins at 12, and that before ends at 8");
    let same = folder.refusal(&pair("a", "b", [0, 16], [0, 16]));
    assert!(same.contains("overlaps another tensor"), "{same}");
    let twice = folder.refusal(&pair("a", "a", [0, 8], [8, 16]));
    assert_eq!(twice, "a: duplicate tensor name");
    // The same name, written in two ways.
    assert_eq!(folder.refusal(&pair("a", "\\u0061", [0, 8], [8, 16])), "a: duplicate tensor name");
    assert!(TensorFile::open(folder.write(&pair("b", "a", [0, 8], [8, 16]))).is_ok());
    // A line end in a name does not make a second line.
    let two_lines = folder.refusal(&pair("x\\ny", "x\\ny", [0, 8], [8, 16]));
    assert_eq!(two_lines, "x\\ny: duplicate tensor name");
}

#[test]
fn metadata_is_texts_by_name() {
    let folder = Folder::new();
    let with = |metadata: &str| file(&format!("{{\"__metadata__\":{metadata}}}"), b"");
    let read = TensorFile::open(folder.write(&with(r#"{"b":"1","a":"2"}"#))).expect("valid");
    assert!(read.metadata_entries().eq([("b", "1"), ("a", "2")]));
    assert!(TensorFile::open(folder.write(&with("null"))).is_ok());
    assert!(folder.refusal(&with(r#"{"a":"1","a":"2"}"#)).contains("duplicate metadata key \"a\""));
    for wrong in [r#"{"a":1}"#, "[]", "\"text\"", "3", r#"{"a":null}"#] {
        assert!(folder.refusal(&with(wrong)).starts_with("the header is not valid"), "{wrong}");
    }
    let twice = file(r#"{"__metadata__":{},"__metadata__":{}}"#, b"");
    assert!(folder.refusal(&twice).contains("duplicate field `__metadata__`"));
}

#[test]
fn what_is_no_file() {
    let folder = Folder::new();
    let error = TensorFile::open(folder.0.path()).map(|_| ()).expect_err("a folder").to_string();
    assert!(error.ends_with("is not a regular file"), "{error}");
    let error = TensorFile::open(folder.0.path().join("none")).map(|_| ()).expect_err("none").to_string();
    assert!(error.contains("none: cannot open: "), "{error}");
}

/// Files of other programs may hold what is not read.
#[test]
fn foreign_formats_are_left_out() {
    let folder = Folder::new();
    let header = r#"{"step":{"dtype":"I64","shape":[],"data_offsets":[0,8]},
                     "w":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#;
    let path = folder.write(&file(header, &[0; 12]));
    assert!(TensorFile::open(&path).is_err());
    let foreign = TensorFile::open_lenient(&path).expect("valid");
    assert_eq!(foreign.tensors().len(), 1);
    assert_eq!(read_all(&foreign), 4);
}
