//! Regular expressions over the names of variables.

use regex::{Regex, RegexBuilder};

use crate::Error;
use crate::json::excerpt;

/// More than any list of names needs, and little enough that a hostile expression takes neither memory nor time.
const PATTERN_SIZE: usize = 1 << 20;

/// As many as an optimizer takes, so that a hostile file takes no time either.
pub(crate) const MOST: usize = 256;

/// Compiles an expression of `exclude_from_weight_decay`.
pub(crate) fn compile(pattern: &str) -> Result<Regex, Error> {
    let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_SIZE).build();
    compiled.map_err(|error| {
        // The syntax errors point at the place in several lines, of which the last says what it is.
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason).to_owned();
        Error::Pattern { pattern: excerpt(&pattern.into()), reason }
    })
}
