//! Formats values for messages and tables.

/// Returns the start of a value that may be a hundred megabytes long.
pub(crate) fn excerpt(value: &str) -> String {
    excerpt_of(value, 40)
}

/// Returns at most `max` characters of a text.
pub(crate) fn excerpt_of(text: &str, max: usize) -> String {
    let mut short: String = text.chars().take(max).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

/// Writes bytes with a binary unit.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (bytes.max(1).ilog2() / 10).min(4);
    let value = bytes as f64 / (1_u64 << (10 * power)) as f64;
    let unit = units.get(power as usize).copied().unwrap_or_default();
    format!("{} {unit}", (value * 10.0).round() / 10.0)
}

/// Returns a property of a machine, or `unknown` if it is empty.
pub fn known(text: &str) -> &str {
    if text.trim().is_empty() { "unknown" } else { text }
}

/// Writes the bytes of a machine's property, or `unknown` if they are 0.
pub fn known_bytes(found: u64) -> String {
    if found == 0 { known("").into() } else { bytes(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (value, expected) in
            [(0, "0 B"), (48 << 10, "48 KiB"), (3 << 19, "1.5 MiB"), (u64::MAX, "16777216 TiB")]
        {
            assert_eq!(bytes(value), expected);
        }
    }
}
