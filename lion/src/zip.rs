//! Reads one member of a zip file, as needed for `.keras` files.
//!
//! Members are stored or deflated. Archives and members may exceed 4 GiB (zip64), as models with their weights do.
//! Encryption and split archives are refused. Every length is checked against a limit before it is used, and the content
//! against its checksum.

use std::io::{self, Read, Seek, SeekFrom};

/// The first bytes of a zip file that has a member.
pub(crate) const SIGNATURE: &[u8] = b"PK\x03\x04";

/// The record at the end of the archive. A comment of up to 64 KiB may follow it.
const END: &[u8] = b"PK\x05\x06";
const END_SIZE: usize = 22;
const LONGEST_COMMENT: u64 = 0xFFFF;
/// The zip64 locator before it, which gives the position of the larger record.
const LOCATOR64: &[u8] = b"PK\x06\x07";
const LOCATOR64_SIZE: usize = 20;
const END64: &[u8] = b"PK\x06\x06";
const END64_SIZE: usize = 56;
/// The headers of a member: in the directory, and before its content.
const ENTRY: &[u8] = b"PK\x01\x02";
const ENTRY_SIZE: usize = 46;
const LOCAL: &[u8] = SIGNATURE;
const LOCAL_SIZE: usize = 30;
/// The id of the extra field with 64-bit lengths and offsets.
const ZIP64: u16 = 1;

/// The largest directory in bytes: enough for some hundred thousand members.
const LARGEST_DIRECTORY: u64 = 32 << 20;

/// Reads the member of that name; `None` if the archive does not have it.
///
/// # Errors
/// A file that cannot be read, an archive that is damaged or uses an unsupported feature, or a member of more than
/// `largest` bytes.
pub(crate) fn member(
    file: &mut (impl Read + Seek),
    name: &str,
    largest: u64,
) -> Result<Option<Vec<u8>>, String> {
    let directory = directory(file)?;
    let mut rest = directory.as_slice();
    while !rest.is_empty() {
        let (entry, after) = Entry::parse(rest).ok_or("its directory is damaged")?;
        if entry.name == name.as_bytes() {
            return content(file, &entry, largest).map(Some);
        }
        rest = after;
    }
    Ok(None)
}

/// A member's entry in the directory.
struct Entry<'a> {
    name: &'a [u8],
    flags: u16,
    method: u16,
    checksum: u32,
    packed: u64,
    size: u64,
    offset: u64,
}

impl<'a> Entry<'a> {
    /// Parses an entry, and also returns the bytes after it.
    fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (fixed, rest) = bytes.split_at_checked(ENTRY_SIZE)?;
        if !fixed.starts_with(ENTRY) {
            return None;
        }
        let (name, rest) = rest.split_at_checked(short(fixed, 28)?.into())?;
        let (extra, rest) = rest.split_at_checked(short(fixed, 30)?.into())?;
        let (_comment, rest) = rest.split_at_checked(short(fixed, 32)?.into())?;
        let mut large = zip64(extra);
        // Values that do not fit in 32 bits are in the extra field, in this order.
        let mut wide = |narrow: u32| match narrow {
            u32::MAX => take_u64(&mut large),
            narrow => Some(narrow.into()),
        };
        let (size, packed, offset) =
            (wide(word(fixed, 24)?)?, wide(word(fixed, 20)?)?, wide(word(fixed, 42)?)?);
        let (flags, method, checksum) = (short(fixed, 8)?, short(fixed, 10)?, word(fixed, 16)?);
        Some((Entry { name, flags, method, checksum, packed, size, offset }, rest))
    }
}

/// Returns the content of the zip64 extra field, or nothing if there is none.
fn zip64(mut extra: &[u8]) -> &[u8] {
    while let (Some(kind), Some(size)) = (short(extra, 0), short(extra, 2)) {
        let Some((field, rest)) = extra.get(4..).and_then(|rest| rest.split_at_checked(size.into())) else {
            break;
        };
        if kind == ZIP64 {
            return field;
        }
        extra = rest;
    }
    &[]
}

/// Reads the archive's directory.
fn directory(file: &mut (impl Read + Seek)) -> Result<Vec<u8>, String> {
    let length = file.seek(SeekFrom::End(0)).map_err(said)?;
    let start = length.saturating_sub(LONGEST_COMMENT + (END_SIZE + LOCATOR64_SIZE) as u64);
    let tail = read(file, start, length - start)?;
    let cut = "it ends early: its directory, which comes last, is missing; it may still be being written";
    let last = tail.windows(END.len()).rposition(|window| window == END).ok_or(cut)?;
    let end = tail.get(last..).filter(|end| end.len() >= END_SIZE).ok_or(cut)?;
    let (mut size, mut offset) = match (word(end, 12), word(end, 16)) {
        (Some(size), Some(offset)) => (u64::from(size), u64::from(offset)),
        _ => return Err(cut.into()),
    };
    let locator = last.checked_sub(LOCATOR64_SIZE).and_then(|at| tail.get(at..last));
    if let Some(locator) = locator.filter(|locator| locator.starts_with(LOCATOR64)) {
        let at = long(locator, 8).unwrap_or(u64::MAX);
        let end = read(file, at, END64_SIZE as u64)?;
        match (end.starts_with(END64), long(&end, 40), long(&end, 48)) {
            (true, Some(long_size), Some(long_offset)) => (size, offset) = (long_size, long_offset),
            _ => return Err("its directory is damaged".into()),
        }
    }
    if size > LARGEST_DIRECTORY {
        return Err(format!("its directory has {size} bytes; expected at most {LARGEST_DIRECTORY}"));
    }
    read(file, offset, size)
}

fn content(file: &mut (impl Read + Seek), entry: &Entry<'_>, largest: u64) -> Result<Vec<u8>, String> {
    const ENCRYPTED: u16 = 1;
    const STORED: u16 = 0;
    const DEFLATED: u16 = 8;
    let name = String::from_utf8_lossy(entry.name);
    if entry.size > largest || entry.packed > largest {
        return Err(format!(
            "its {name} has {} bytes; expected at most {largest}",
            entry.size.max(entry.packed)
        ));
    }
    if entry.flags & ENCRYPTED != 0 {
        return Err(format!("its {name} is encrypted"));
    }
    let local = read(file, entry.offset, LOCAL_SIZE as u64)?;
    let lengths = local.starts_with(LOCAL).then(|| Some((short(&local, 26)?, short(&local, 28)?))).flatten();
    let (name_length, extra_length) = lengths.ok_or("its directory is damaged")?;
    let start = LOCAL_SIZE as u64 + u64::from(name_length) + u64::from(extra_length);
    // The sum cannot overflow, as the header at this offset has been read.
    let packed = read(file, entry.offset + start, entry.packed)?;
    let bytes = match entry.method {
        STORED => packed,
        DEFLATED => {
            let limit = usize::try_from(entry.size).unwrap_or(usize::MAX);
            miniz_oxide::inflate::decompress_to_vec_with_limit(&packed, limit)
                .map_err(|_| format!("its {name} is damaged"))?
        }
        other => {
            return Err(format!(
                "its {name} is packed by method {other}; expected 0 (stored) or 8 (deflated)"
            ));
        }
    };
    if bytes.len() as u64 != entry.size || crc32(&bytes) != entry.checksum {
        return Err(format!("its {name} is damaged"));
    }
    Ok(bytes)
}

fn read(file: &mut (impl Read + Seek), offset: u64, size: u64) -> Result<Vec<u8>, String> {
    file.seek(SeekFrom::Start(offset)).map_err(said)?;
    let mut bytes = Vec::new();
    file.take(size).read_to_end(&mut bytes).map_err(said)?;
    if (bytes.len() as u64) < size {
        return Err("it ends early; it may still be being written".into());
    }
    Ok(bytes)
}

fn said(error: io::Error) -> String {
    error.to_string()
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*first))
}

/// Computes the checksum bit by bit, as configs are short.
fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    let bit = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), bit))
}
