//! `lion profile diff`: where two profiles differ.

use std::fmt::Write as _;
use std::path::PathBuf;

use lion_autotune::candidate::describe;

use super::{print, read};
use crate::failure::Failure;

/// Prints what has another plan in one profile than in another.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The one
    left: PathBuf,
    /// The other
    right: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let [left, right] = [read(&arguments.left)?.plans()?, read(&arguments.right)?.plans()?];
    let mut cases: Vec<_> = left.iter().chain(&right).map(|(case, _)| *case).collect();
    cases.sort_unstable();
    cases.dedup();
    let mut text = String::new();
    for case in cases {
        let of = |plans: &[(_, _)]| plans.iter().find(|(it, _)| *it == case).map(|(_, plan)| *plan);
        let (one, other) = (of(&left), of(&right));
        if one != other {
            let shown = |plan: Option<_>| plan.map_or_else(|| "none".into(), |plan| describe(&plan));
            // A string takes everything.
            let _ = writeln!(text, "{case}: {} | {}", shown(one), shown(other));
        }
    }
    print(&text)
}
