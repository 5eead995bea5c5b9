//! Prints measurements as a table with bars, or as JSON.

use std::io::{self, Write};

use lion_autotune::measure::{Calls, Comparison};
use serde_json::json;

use super::{Line, Pages, Pipeline};
use crate::error::CliError;

/// The widest bar, in characters.
const BAR: f64 = 40.0;

/// Prints each line as soon as it is measured.
pub(super) struct Table {
    json: bool,
    /// The name of each line so far, and its ratio to the bandwidth bound.
    ratios: Vec<(String, f64)>,
}

impl Table {
    pub(super) fn new(json: bool) -> Self {
        Table { json, ratios: Vec::new() }
    }

    pub(super) fn add(&mut self, line: &Line, found: &Comparison) -> Result<(), CliError> {
        let text = if self.json { object(line, found) } else { self.row(line, found) };
        self.ratios.push((line.to_string(), found.ratio.median));
        write(&text)
    }

    /// Returns a row, and the heading before the first row.
    fn row(&self, line: &Line, found: &Comparison) -> String {
        let mut text = String::new();
        if self.ratios.is_empty() {
            text = format!(
                "calls {}\n{:<16} {:>12} {:>7} {:>9} {:>8} {:>6}  {}\n",
                match line.calls {
                    Calls::BackToBack => "back to back",
                    Calls::Apart => "apart, as in training: threads asleep, caches used by others",
                },
                "formats",
                "elements",
                "threads",
                "ns/elem",
                "GB/s",
                "ratio",
                "p10 to p90"
            );
        }
        text + &format!(
            "{:<16} {:>12} {:>7} {:>9.4} {:>8.2} {:>6.2}  {:.2} to {:.2}\n",
            format!("{}{}", line.dtypes, if line.stochastic { " stochastic" } else { "" }),
            line.tensors.to_string(),
            line.threads,
            per_element(line, found.work.median),
            line.bytes() as f64 / found.work.median,
            found.ratio.median,
            found.ratio.p10,
            found.ratio.p90,
        )
    }

    /// Prints the ratios as bars.
    pub(super) fn finish(&self) -> Result<(), CliError> {
        if self.json || self.ratios.is_empty() {
            return Ok(());
        }
        let longest = self.ratios.iter().map(|(_, ratio)| *ratio).fold(1.0, f64::max);
        let width = self.ratios.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let mut text = format!("\n{:<width$}  time relative to the bandwidth bound, which is 1\n", "");
        for (name, ratio) in &self.ratios {
            let bar = "█".repeat((ratio / longest * BAR).round() as usize);
            text += &format!("{name:<width$}  {bar} {ratio:.2}\n");
        }
        write(&text)
    }
}

fn per_element(line: &Line, nanoseconds: f64) -> f64 {
    nanoseconds / line.tensors.elements().max(1) as f64
}

fn object(line: &Line, found: &Comparison) -> String {
    let object = json!({
        "operation": "apply",
        "param": line.dtypes.parameter.name(),
        "grad": line.dtypes.gradient.name(),
        "momentum": line.dtypes.momentum.name(),
        "stochastic_rounding": line.stochastic,
        "limit_of": line.limit.unwrap_or(line.dtypes).to_string(),
        "pipeline": match line.pipeline { Pipeline::Plain => "plain", Pipeline::Full => "full" },
        "elements": line.tensors.elements(),
        "tensors": line.tensors.lengths().len(),
        "threads": line.threads,
        "backend": line.plan.backend.name(),
        "calls": line.calls.name(),
        "pages": match line.pages { Pages::Small => "small", Pages::Huge => "huge" },
        "ns_per_element": per_element(line, found.work.median),
        "gb_per_s": line.bytes() as f64 / found.work.median,
        "limit_ns_per_element": per_element(line, found.baseline.median),
        "ratio": found.ratio.median,
        "ratio_p10": found.ratio.p10,
        "ratio_p90": found.ratio.p90,
        "samples": found.samples,
    });
    format!("{object}\n")
}

fn write(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(CliError::Output)
}
