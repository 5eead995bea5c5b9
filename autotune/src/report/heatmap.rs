//! Heatmaps of threads and chunks: the time of each plan relative to the fastest.

use std::fmt::Write as _;

use super::table::nanoseconds;
use crate::candidate::describe;
use crate::search::{CaseResult, Measurement};

const CELL: (f64, f64) = (72.0, 30.0);
const LEFT: f64 = 76.0;
const TOP: f64 = 28.0;

/// Draws the heatmap of one case, on the backend of its plan. Returns an empty string if only one thread was tried.
pub(super) fn heatmap(result: &CaseResult) -> String {
    let of_backend =
        result.measurements.iter().filter(|measurement| measurement.plan.backend == result.plan.backend);
    let timed: Vec<(&Measurement, f64)> = of_backend.filter_map(|it| Some((it, it.typical()?))).collect();
    let threads = |measurement: &Measurement| measurement.plan.threads.map_or(usize::MAX, usize::from);
    let sorted = |mut values: Vec<usize>| {
        values.sort_unstable();
        values.dedup();
        values
    };
    let rows = sorted(timed.iter().map(|(it, _)| threads(it)).collect());
    let columns = sorted(
        timed.iter().filter(|(it, _)| threads(it) > 1).map(|(it, _)| it.plan.chunk_elements).collect(),
    );
    if columns.is_empty() {
        return String::new();
    }
    let fastest = timed.iter().map(|(_, ns)| *ns).fold(f64::INFINITY, f64::min);
    let width = LEFT + CELL.0 * columns.len() as f64 + 8.0;
    let height = TOP + CELL.1 * rows.len() as f64 + 8.0;
    let mut cells = String::new();
    let mut count = 0;
    for (row, &of_row) in rows.iter().enumerate() {
        let y = TOP + CELL.1 * row as f64;
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(
            cells,
            "<text class=\"tick end\" x=\"{}\" y=\"{}\">{of_row} thread{}</text>",
            LEFT - 6.0,
            y + 19.0,
            if of_row == 1 { "" } else { "s" }
        );
        for (column, &chunk) in columns.iter().enumerate() {
            let here = timed
                .iter()
                .filter(|(it, _)| threads(it) == of_row && (of_row == 1 || it.plan.chunk_elements == chunk));
            let Some((measurement, ns)) = here.min_by(|a, b| a.1.total_cmp(&b.1)) else { continue };
            count += 1;
            let over = ns / fastest - 1.0;
            let x = LEFT + CELL.0 * column as f64;
            // The colour fades into the page: fully for the fastest, not at all at twice its time.
            let strength = (100.0 * (1.0 - over)).clamp(6.0, 100.0);
            let _ = writeln!(
                cells,
                "<rect class=\"cell{}\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" \
                 style=\"fill:color-mix(in srgb, var(--plan) {strength:.0}%, var(--page))\">\
                 <title>{}: {}</title></rect>\
                 <text class=\"{} middle\" x=\"{}\" y=\"{}\">{:+.0} %</text>",
                if measurement.plan == result.plan { " chosen" } else { "" },
                CELL.0 - 2.0,
                CELL.1 - 2.0,
                describe(&measurement.plan),
                nanoseconds(*ns),
                if strength > 60.0 { "tick on" } else { "tick off" },
                x + CELL.0 / 2.0 - 1.0,
                y + 19.0,
                over * 100.0
            );
        }
    }
    for (column, chunk) in columns.iter().enumerate() {
        let x = LEFT + CELL.0 * (column as f64 + 0.5);
        let _ = writeln!(
            cells,
            "<text class=\"tick middle\" x=\"{x}\" y=\"{}\">{} K</text>",
            TOP - 8.0,
            chunk / 1024
        );
    }
    format!(
        "<figure class=\"heat\" data-points=\"{count}\"><figcaption>{}</figcaption><svg viewBox=\"0 0 {width} {height}\" style=\"width:{width}px\" role=\"img\" \
         aria-label=\"threads and chunks\">\n{cells}</svg></figure>\n",
        result.case.size_class()
    )
}
