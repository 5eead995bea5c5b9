//! `lion profile diff`: prints where two profiles differ.

use std::fmt::Write as _;
use std::path::PathBuf;

use lion_autotune::candidate::describe;

use super::{print, read};
use crate::error::CliError;

/// Prints each case for which two profiles have different plans
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The first profile
    left: PathBuf,
    /// The second profile
    right: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let [left, right] = [read(&arguments.left)?.plans()?, read(&arguments.right)?.plans()?];
    let mut cases: Vec<_> = left.iter().chain(&right).map(|(case, _)| *case).collect();
    cases.sort_unstable();
    cases.dedup();
    let mut text = String::new();
    for case in cases {
        let plan_in = |plans: &[(_, _)]| plans.iter().find(|(it, _)| *it == case).map(|(_, plan)| *plan);
        let (one, other) = (plan_in(&left), plan_in(&right));
        if one != other {
            let shown = |plan: Option<_>| plan.map_or_else(|| "none".into(), |plan| describe(&plan));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{case}: {} | {}", shown(one), shown(other));
        }
    }
    print(&text)
}
