//! Line charts over the bytes of a call.

use std::fmt::Write as _;

use super::page::escape;
use crate::case::SizeClass;
use crate::machine::Machine;
use crate::text::bytes;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 40.0;

/// A line of a chart.
pub(super) struct Line {
    /// The name in the legend.
    pub(super) name: String,
    /// The CSS class, which sets the colour.
    pub(super) class: &'static str,
    /// For each point: the bytes of a call, the value, and the tooltip.
    pub(super) points: Vec<(usize, f64, String)>,
}

/// Draws a chart that marks the sizes of the caches. Returns an empty string if there are no points.
pub(super) fn lines(title: &str, unit: &str, lines: &[Line], machine: &Machine) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let count = points().count();
    if count == 0 {
        return String::new();
    }
    let top = nice(points().map(|point| point.1).fold(0.0, f64::max));
    let (first, last) = (SizeClass::of(0).bytes() / 2, SizeClass::of(usize::MAX).bytes() * 2);
    let (low, high) = ((first as f64).log2(), (last as f64).log2());
    let x = |bytes: f64| LEFT + (bytes.log2() - low) / (high - low) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
    let title = escape(title);
    let mut svg = format!(
        "<figure class=\"chart\" data-points=\"{count}\"><figcaption>{title}</figcaption>\
         <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n"
    );
    // Writing to a string cannot fail, here and below.
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let (height, shown) = (y(value), (value * 100.0).round() / 100.0);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{height:.1}\" y2=\"{height:.1}\"/>\
             <text class=\"tick end\" x=\"{}\" y=\"{:.1}\">{shown}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            height + 4.0
        );
    }
    for class in SizeClass::all() {
        let x = x(class.bytes() as f64);
        let _ = writeln!(
            svg,
            "<text class=\"tick middle\" x=\"{x:.1}\" y=\"{:.1}\">{class}</text>",
            HEIGHT - BOTTOM + 16.0
        );
    }
    for cache in machine.caches.iter().filter(|it| (it.bytes as f64) > first as f64 && it.bytes < last as u64)
    {
        let x = x(cache.bytes as f64);
        let _ = writeln!(
            svg,
            "<line class=\"cache\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <text class=\"tick middle\" x=\"{x:.1}\" y=\"{:.1}\">L{} {}</text>",
            HEIGHT - BOTTOM,
            TOP - 6.0,
            cache.level,
            bytes(cache.bytes)
        );
    }
    for line in lines {
        let path: Vec<String> = line
            .points
            .iter()
            .map(|(bytes, value, _)| format!("{:.1},{:.1}", x(*bytes as f64), y(*value)))
            .collect();
        let _ = writeln!(svg, "<polyline class=\"{}\" points=\"{}\"/>", line.class, path.join(" "));
        for (bytes, value, tooltip) in &line.points {
            let _ = writeln!(
                svg,
                "<circle class=\"point {}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{}</title></circle>",
                line.class,
                x(*bytes as f64),
                y(*value),
                escape(tooltip)
            );
        }
    }
    let _ = writeln!(
        svg,
        "<text class=\"tick\" x=\"4\" y=\"14\">{}</text>\
         <text class=\"tick end\" x=\"{}\" y=\"{}\">bytes of a call's tensors</text></svg>",
        escape(unit),
        WIDTH - RIGHT,
        HEIGHT - 6.0
    );
    svg.push_str("<ul class=\"legend\">");
    for line in lines.iter().filter(|line| !line.points.is_empty()) {
        let _ = write!(svg, "<li><i class=\"{}\"></i>{}</li>", line.class, escape(&line.name));
    }
    svg.push_str("</ul></figure>\n");
    svg
}

/// Rounds up to 1, 2, 4 or 8 times a power of ten.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-9).log10().floor());
    [1.0, 2.0, 4.0, 8.0, 10.0].into_iter().map(|it| it * power).find(|it| *it >= value).unwrap_or(value)
}
