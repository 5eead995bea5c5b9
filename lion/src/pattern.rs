//! Compiles regular expressions over the names of variables.

use regex::{Regex, RegexBuilder};

use crate::Error;
use crate::json::excerpt;

/// The limit of a compiled expression, in bytes: more than any list of names needs, and small enough that a hostile
/// expression costs little memory and time.
const PATTERN_SIZE: usize = 1 << 20;

/// The largest number of expressions, so that a hostile file costs little time.
pub(crate) const MOST: usize = 256;

/// Compiles an expression of `exclude_from_weight_decay`.
pub(crate) fn compile(pattern: &str) -> Result<Regex, Error> {
    let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_SIZE).build();
    compiled.map_err(|error| {
        // The error has several lines that point at the position; the last one is the message.
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason).to_owned();
        Error::Pattern { pattern: excerpt(&pattern.into()), reason }
    })
}
