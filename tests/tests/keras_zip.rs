//! `.keras` files, which are zip files: every form of a model's archive reads successfully, all others return an error.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use lion::Config;
use tempfile::{TempDir, tempdir};

const JSON: &[u8] = br#"{"optimizer": {"beta_1": 0.5}}"#;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempdir().expect("a folder"))
    }

    fn read(&self, bytes: &[u8]) -> Result<Config, String> {
        let path = self.0.path().join("model.keras");
        // A new file: some file systems flush a file that is written over.
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).expect("written");
        Config::read(&path).map_err(|error| {
            let message = error.to_string();
            assert!(!message.contains('\n') && message.len() < 1000, "{message}");
            message.strip_prefix(&format!("{}: ", path.display())).expect("the file").to_owned()
        })
    }

    fn refused(&self, bytes: &[u8]) -> String {
        self.read(bytes).expect_err("refused")
    }
}

/// A member of an archive, as a test wants it.
#[derive(Clone)]
struct Member {
    name: &'static str,
    content: Vec<u8>,
    size: u64,
    checksum: u32,
    method: u16,
    flags: u16,
    /// Whether its lengths and its place are in the extra field of zip64.
    wide: bool,
}

impl Member {
    fn stored(name: &'static str, content: &[u8]) -> Self {
        Member {
            name,
            content: content.into(),
            size: content.len() as u64,
            checksum: crc32(content),
            method: 0,
            flags: 0,
            wide: false,
        }
    }
}

/// From its definition as a remainder, and not as the reader computes it: by the polynomial's own order of bits.
fn crc32(bytes: &[u8]) -> u32 {
    let mut remainder = u32::MAX;
    for bit in bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1)) {
        let top = (remainder >> 31) as u8 ^ bit;
        remainder = remainder << 1 ^ if top == 1 { 0x04C1_1DB7 } else { 0 };
    }
    (!remainder).reverse_bits()
}

/// An archive of these members; `wide` also at its end.
fn archive(members: &[Member], wide: bool, comment: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    for member in members {
        let offset = bytes.len() as u64;
        let head = |size: u64, packed: u64| {
            let mut head = Vec::new();
            for short in [member.flags, member.method, 0, 0] {
                head.extend(short.to_le_bytes());
            }
            head.extend(member.checksum.to_le_bytes());
            for length in [packed, size] {
                head.extend(if member.wide { u32::MAX } else { length as u32 }.to_le_bytes());
            }
            head.extend((member.name.len() as u16).to_le_bytes());
            head
        };
        let packed = member.content.len() as u64;
        let extra: Vec<u8> = match member.wide {
            // A field of another kind comes first.
            true => [
                &[9, 9, 2, 0, 7, 7, 1, 0, 24, 0][..],
                &member.size.to_le_bytes(),
                &packed.to_le_bytes(),
                &offset.to_le_bytes(),
            ]
            .concat(),
            false => Vec::new(),
        };
        bytes.extend(b"PK\x03\x04\x14\x00");
        bytes.extend(head(member.size, packed));
        // The local extra field has a length of its own.
        bytes.extend(3_u16.to_le_bytes());
        bytes.extend(member.name.as_bytes());
        bytes.extend([0; 3]);
        bytes.extend(&member.content);

        directory.extend(b"PK\x01\x02\x14\x00\x14\x00");
        directory.extend(head(member.size, packed));
        directory.extend((extra.len() as u16).to_le_bytes());
        directory.extend([0; 10]);
        let place = if member.wide { u32::MAX } else { offset as u32 };
        directory.extend(place.to_le_bytes());
        directory.extend(member.name.as_bytes());
        directory.extend(&extra);
    }
    let (offset, size) = (bytes.len() as u64, directory.len() as u64);
    bytes.extend(&directory);
    if wide {
        let end = bytes.len() as u64;
        bytes.extend(b"PK\x06\x06");
        bytes.extend(44_u64.to_le_bytes());
        bytes.extend([0; 28]);
        bytes.extend(size.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend(end.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
    }
    bytes.extend(b"PK\x05\x06");
    bytes.extend([0; 8]);
    let narrow = |value: u64| if wide { u32::MAX } else { value as u32 }.to_le_bytes();
    bytes.extend(narrow(size));
    bytes.extend(narrow(offset));
    bytes.extend((comment.len() as u16).to_le_bytes());
    bytes.extend(comment);
    bytes
}

fn members() -> Vec<Member> {
    vec![
        Member::stored("metadata.json", b"{}"),
        Member::stored("config.json", JSON),
        Member::stored("model.weights.h5", &[7; 100]),
    ]
}

#[test]
fn archives_of_every_make_are_read() {
    let folder = Folder::new();
    let expected = Config::from_json(r#"{"beta_1": 0.5}"#).expect("valid");
    for wide_member in [false, true] {
        let mut members = members();
        members[1].wide = wide_member;
        for wide in [false, true] {
            for comment in [&b""[..], b"made by a test", &[b'x'; 0xFFFF]] {
                assert_eq!(folder.read(&archive(&members, wide, comment)), Ok(expected.clone()));
            }
        }
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let folder = Folder::new();
    let with = |set: &dyn Fn(&mut Member)| {
        let mut members = members();
        set(&mut members[1]);
        folder.refused(&archive(&members, false, b""))
    };
    let start = "is a zip file that cannot be read: its config.json ";
    for (set, expected) in [
        (&(|member: &mut Member| member.flags = 1) as &dyn Fn(&mut Member), "is encrypted"),
        (&|member| member.method = 14, "is packed by method 14; expected 0 (stored) or 8 (deflated)"),
        (&|member| member.checksum ^= 1, "is damaged"),
        (&|member| member.content[3] ^= 1, "is damaged"),
        (&|member| member.size -= 1, "is damaged"),
        // No stream of bits that is deflated.
        (&|member| member.method = 8, "is damaged"),
        (
            &|member| {
                member.wide = true;
                member.size = u64::MAX;
            },
            "has 18446744073709551615 bytes; expected at most 16777216",
        ),
        (&|member| member.size = 1 << 25, "has 33554432 bytes; expected at most 16777216"),
    ] {
        assert_eq!(with(set), format!("{start}{expected}"));
    }
    let missing = folder.refused(&archive(&members()[..1], false, b""));
    let expected =
        "is a zip file without config.json; expected Keras's JSON or a .keras file: a model's .keras has one";
    assert_eq!(missing, expected);
    let not_text = archive(&[Member::stored("config.json", b"\xff{}")], false, b"");
    assert!(folder.refused(&not_text).starts_with("config.json: is not valid JSON"));
    let broken = archive(&[Member::stored("config.json", b"{\"beta_1\": 2}")], false, b"");
    assert_eq!(folder.refused(&broken), "config.json: beta_1 is 2, and must be in (0, 1]");
}

#[test]
fn every_cut_and_every_flipped_bit() {
    let folder = Folder::new();
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("found/keras3/deflated.keras");
    let deflated = fs::read(found).expect("there");
    let mut wide = members();
    wide[1].wide = true;
    for whole in [deflated, archive(&wide, true, b"")] {
        folder.read(&whole).expect("whole");
        for end in 0..whole.len() {
            let message = folder.refused(&whole[..end]);
            if end >= 4 {
                assert!(message.contains("it may still be being written"), "{end}: {message}");
            }
        }
        for at in 4..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                let begun = Instant::now();
                let _ = folder.read(&flipped);
                assert!(begun.elapsed() < Duration::from_secs(5), "byte {at}, bit {bit}");
            }
        }
    }
}

/// A directory that claims more than there is, or leads anywhere.
#[test]
fn directories_that_lie() {
    let folder = Folder::new();
    let whole = archive(&members(), false, b"");
    let end = whole.len() - 22;
    for (at, value) in [(12, 0_u32), (12, u32::MAX), (12, 1 << 24), (16, 0), (16, u32::MAX), (16, 1)] {
        let mut lying = whole.clone();
        lying[end + at..end + at + 4].copy_from_slice(&value.to_le_bytes());
        assert!(folder.refused(&lying).starts_with("is a zip file "), "{at}: {value}");
    }
    let whole = archive(&members(), true, b"");
    let locator = whole.len() - 22 - 20;
    for value in [0, 1, u64::MAX, whole.len() as u64 - 1] {
        let mut lying = whole.clone();
        lying[locator + 8..locator + 16].copy_from_slice(&value.to_le_bytes());
        assert!(folder.refused(&lying).starts_with("is a zip file that cannot be read: "), "{value}");
    }
}
