//! Markdown tables, and times with units.

use std::fmt::Write as _;

use crate::candidate::describe;
use crate::profile::Document;
use crate::search::Regret;

/// Writes nanoseconds with three digits and a unit.
pub fn nanoseconds(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

/// Writes a profile as a table.
pub fn plans(document: &Document) -> String {
    let mut text = String::from("| operation | dtypes | size | plan | time | default | gain |\n");
    text.push_str("|---|---|---|---|---|---|---|\n");
    let entries = document.entries.iter().zip(document.plans().unwrap_or_default());
    for (entry, (_, plan)) in entries {
        let time = |it: Option<f64>| it.map_or_else(|| "–".into(), nanoseconds);
        let gain = match (entry.nanoseconds, entry.default_nanoseconds) {
            (Some(time), Some(default)) if default > 0.0 => {
                format!("{:.0} %", (1.0 - time / default) * 100.0)
            }
            _ => "–".into(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {gain} |",
            entry.operation,
            entry.dtypes,
            entry.size,
            describe(&plan),
            time(entry.nanoseconds),
            time(entry.default_nanoseconds),
        );
    }
    text
}

/// Writes the result of a verification as a table and a summary line.
pub fn regrets(regrets: &[Regret]) -> String {
    let mut text = String::from(
        "| operation | dtypes | size | plan | time | over the best | 95 % | over the default | 95 % | best | holds |\n",
    );
    text.push_str("|---|---|---|---|---|---|---|---|---|---|---|\n");
    for it in regrets {
        let ((best, [low, high]), (default, [from, to])) = (it.to_best, it.to_baseline);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {best:.3} | {low:.3}–{high:.3} | {default:.3} | {from:.3}–{to:.3} | {} | {} |",
            it.case.operation,
            it.case.dtypes,
            it.case.size_class(),
            describe(&it.plan),
            nanoseconds(it.nanoseconds),
            if it.best == it.plan { "the same".into() } else { describe(&it.best) },
            if it.holds() { "yes" } else { "no" },
        );
    }
    let failed = regrets.iter().filter(|it| !it.holds()).count();
    let worst = regrets.iter().map(|it| it.to_best.0).fold(1.0, f64::max);
    let _ = writeln!(
        text,
        "\n{} plans measured; at most {:.1} % over the best; {failed} slower than promised, beyond the noise.",
        regrets.len(),
        (worst - 1.0) * 100.0
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        for (value, expected) in
            [(1.234, "1.23 ns"), (12_345.0, "12.3 µs"), (1.5e8, "150 ms"), (2e9, "2.00 s")]
        {
            assert_eq!(nanoseconds(value), expected);
        }
    }
}
