//! Reads `/proc` and `/sys`. Each function returns `None` if its file does not exist or has unexpected content.

use std::fs;
use std::path::Path;

use super::Cache;

fn text(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned())
}

/// Counts the numbers in a list such as `0-3,8`.
pub(super) fn count(list: &str) -> Option<usize> {
    let mut total = 0_usize;
    for part in list.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        total = total.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(total).filter(|total| *total > 0)
}

pub(super) fn caches(root: &Path) -> Option<Vec<Cache>> {
    const CACHES: &str = "sys/devices/system/cpu/cpu0/cache";
    let of = |index: usize| {
        let read = |name| text(root, &format!("{CACHES}/index{index}/{name}"));
        let size = read("size")?;
        let (digits, unit) = size.split_at(size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len()));
        let unit = match unit {
            "" => 1,
            "K" => 1 << 10,
            "M" => 1 << 20,
            _ => return None,
        };
        let cache = Cache {
            level: read("level")?.parse().ok()?,
            bytes: digits.parse::<u64>().ok()?.checked_mul(unit)?,
            shared_by: read("shared_cpu_list").and_then(|list| count(&list)).unwrap_or(1),
        };
        (read("type")? != "Instruction").then_some(cache)
    };
    let mut found: Vec<Cache> = (0..8).filter_map(of).collect();
    found.sort_by_key(|cache| cache.level);
    (!found.is_empty()).then_some(found)
}

pub(super) fn siblings(root: &Path) -> Option<usize> {
    count(&text(root, "sys/devices/system/cpu/cpu0/topology/thread_siblings_list")?)
}

pub(super) fn numa_nodes(root: &Path) -> Option<usize> {
    count(&text(root, "sys/devices/system/node/online")?)
}

pub(super) fn memory(root: &Path) -> Option<u64> {
    let info = text(root, "proc/meminfo")?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Reads the page size from the auxiliary vector: pairs of a type and a value, each a machine word.
pub(super) fn page_size(root: &Path) -> Option<u64> {
    const PAGE_SIZE: usize = 6;
    const WORD: usize = size_of::<usize>();
    let pairs = fs::read(root.join("proc/self/auxv")).ok()?;
    let word = |bytes: &[u8]| bytes.try_into().ok().map(usize::from_ne_bytes);
    pairs.chunks_exact(2 * WORD).find_map(|pair| {
        let (kind, value) = pair.split_at(WORD);
        (word(kind)? == PAGE_SIZE).then(|| word(value).map(|bytes| bytes as u64))?
    })
}

/// Returns the active mode, which is in brackets.
pub(super) fn huge_pages(root: &Path) -> Option<String> {
    let modes = text(root, "sys/kernel/mm/transparent_hugepage/enabled")?;
    let (_, rest) = modes.split_once('[')?;
    rest.split_once(']').map(|(mode, _)| mode.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_counted() {
        for (list, expected) in [("0", 1), ("0-3", 4), ("0-3,8,10-11", 7)] {
            assert_eq!(count(list), Some(expected), "{list}");
        }
        for wrong in ["", "3-0", "x", "0-", "0-18446744073709551615"] {
            assert_eq!(count(wrong), None, "{wrong}");
        }
    }
}
