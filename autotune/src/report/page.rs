//! The HTML page.

use std::fmt::Write as _;

use super::chart::{Line, lines};
use super::heatmap::heatmap;
use super::table::nanoseconds;
use crate::candidate::describe;
use crate::case::{Dtypes, Operation};
use crate::machine::Machine;
use crate::search::{CaseResult, TuningRecord};
use crate::text::{bytes, known, known_bytes};

const STYLE: &str = include_str!("style.css");

/// Escapes a text for HTML.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Draws a tuning as one HTML page: the machine, throughput and time relative to the bandwidth bound over the size of a call,
/// heatmaps of threads and chunks, and a table of all plans.
pub fn html(record: &TuningRecord) -> String {
    let TuningRecord { machine, cases: results } = record;
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><link rel=\"icon\" href=\"data:,\">\
         <title>Lion on {}</title><style>\n{STYLE}</style></head><body><main>\n<h1>Lion on {}</h1>\n",
        escape(machine.name()),
        escape(machine.name())
    );
    page.push_str(&description(machine));
    let mut subjects: Vec<(Operation, Dtypes)> = Vec::new();
    for result in results {
        let subject = (result.case.operation, result.case.dtypes);
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
    for (operation, dtypes) in subjects {
        let of_subject: Vec<&CaseResult> =
            results.iter().filter(|it| (it.case.operation, it.case.dtypes) == (operation, dtypes)).collect();
        let opened = if operation == Operation::Step { " open" } else { "" };
        // Writing to a string cannot fail, here and below.
        let _ =
            writeln!(page, "<details{opened}><summary>{operation} · {dtypes}</summary><div class=\"row\">");
        page.push_str(&throughput(&of_subject, machine));
        page.push_str(&relative_to_bound(&of_subject, machine));
        page.push_str("</div>");
        let maps: Vec<String> =
            of_subject.iter().map(|it| heatmap(it)).filter(|map| !map.is_empty()).collect();
        if !maps.is_empty() {
            let _ = writeln!(
                page,
                "<p>Time relative to the fastest plan, by threads and elements of a chunk. A frame marks the chosen \
                 plan.</p><div class=\"maps\">{}</div>",
                maps.concat()
            );
        }
        page.push_str(&table(&of_subject));
        page.push_str("</details>\n");
    }
    page.push_str("</main></body></html>\n");
    page
}

fn description(machine: &Machine) -> String {
    let caches: Vec<String> = machine
        .caches
        .iter()
        .map(|it| format!("L{} {} for {}", it.level, bytes(it.bytes), it.shared_by))
        .collect();
    let quota = machine.quota.map(|quota| format!(", quota {quota}")).unwrap_or_default();
    let rows = [
        (
            "processor",
            format!(
                "{} family {} model {} stepping {} ({})",
                known(&machine.vendor),
                machine.family,
                machine.model,
                machine.stepping,
                machine.microarchitecture()
            ),
        ),
        ("extensions", known(&machine.isa.join(", ")).into()),
        ("caches", known(&caches.join(" · ")).into()),
        (
            "cores",
            format!(
                "{} used of {} allowed{quota}; {} threads a core; {} NUMA nodes",
                machine.cores, machine.allowed, machine.smt, machine.numa_nodes
            ),
        ),
        (
            "memory",
            format!(
                "{}, pages of {}, huge pages: {}",
                known_bytes(machine.memory),
                known_bytes(machine.page_size),
                known(&machine.huge_pages)
            ),
        ),
        ("system", format!("{} on {}", machine.os, machine.arch)),
    ];
    let mut text = String::from("<table class=\"machine\">");
    for (key, value) in rows {
        let _ = write!(text, "<tr><th>{key}</th><td>{}</td></tr>", escape(&value));
    }
    text.push_str("</table>\n");
    text
}

fn line(
    name: &str,
    class: &'static str,
    results: &[&CaseResult],
    value: impl Fn(&CaseResult) -> Option<(f64, String)>,
) -> Line {
    let point = |it: &&CaseResult| value(it).map(|(value, tooltip)| (it.case.bytes, value, tooltip));
    let points = results.iter().filter_map(point).filter(|point| point.1.is_finite() && point.1 >= 0.0);
    Line { name: name.into(), class, points: points.collect() }
}

fn throughput(results: &[&CaseResult], machine: &Machine) -> String {
    let rate = |it: &CaseResult, ns: Option<f64>, what: &str| {
        let rate = it.case.traffic() as f64 / ns?;
        Some((rate, format!("{}: {rate:.1} GB/s, {what}", it.case.size_class())))
    };
    let all = [
        line("bandwidth bound", "bound", results, |it| rate(it, it.bound_nanoseconds, "bandwidth bound")),
        line("default", "default", results, |it| rate(it, it.baseline_nanoseconds, &describe(&it.baseline))),
        line("this profile", "plan", results, |it| rate(it, it.nanoseconds, &describe(&it.plan))),
    ];
    lines("throughput", "GB/s", &all, machine)
}

fn relative_to_bound(results: &[&CaseResult], machine: &Machine) -> String {
    let over = |it: &CaseResult, ns: Option<f64>| {
        let ratio = ns? / it.bound_nanoseconds?;
        Some((ratio, format!("{}: {ratio:.2} times the bandwidth bound", it.case.size_class())))
    };
    let all = [
        line("default", "default", results, |it| over(it, it.baseline_nanoseconds)),
        line("this profile", "plan", results, |it| over(it, it.nanoseconds)),
    ];
    lines("time relative to the bandwidth bound", "times", &all, machine)
}

fn table(results: &[&CaseResult]) -> String {
    let mut text = String::from(
        "<table><tr><th>size</th><th>plan</th><th>time</th><th>95 %</th><th>default</th><th>saved</th></tr>",
    );
    for it in results {
        let time = |ns: Option<f64>| ns.map_or_else(|| "–".into(), nanoseconds);
        let interval =
            it.interval.map(|[low, high]| format!("{} to {}", nanoseconds(low), nanoseconds(high)));
        let _ = write!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.0} %</td></tr>",
            it.case.size_class(),
            escape(&describe(&it.plan)),
            time(it.nanoseconds),
            interval.unwrap_or_else(|| "–".into()),
            time(it.baseline_nanoseconds),
            it.gain() * 100.0
        );
    }
    text.push_str("</table>\n");
    text
}
