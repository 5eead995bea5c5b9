//! The loss curves as an SVG picture: a panel for each network.

use std::fmt::Write;

use crate::Run;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 56.0;

/// Curves of one network, on a logarithmic scale of the loss.
pub(crate) fn picture(panels: &[(&str, Vec<Run>)]) -> String {
    let width = panels.len() as f64 * (WIDTH + MARGIN) + MARGIN;
    let height = HEIGHT + 2.2 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, (name, runs)) in panels.iter().enumerate() {
        panel(&mut svg, MARGIN + index as f64 * (WIDTH + MARGIN), name, runs);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, left: f64, name: &str, runs: &[Run]) {
    let losses = || runs.iter().flat_map(|run| &run.losses).copied();
    let low = losses().fold(f64::INFINITY, f64::min).log10().floor();
    let high = losses().fold(0.0, f64::max).log10().ceil();
    let epochs = runs.iter().map(|run| run.losses.len()).max().unwrap_or(1);
    let x = |epoch: usize| left + epoch as f64 / (epochs.max(2) - 1) as f64 * WIDTH;
    let y = |loss: f64| MARGIN + (high - loss.log10()) / (high - low) * HEIGHT;
    let mut add = |text: std::fmt::Arguments<'_>| svg.write_fmt(text).expect("a string takes everything");
    add(format_args!("<text x=\"{left}\" y=\"{}\" font-size=\"14\">{name}</text>\n", MARGIN - 14.0));
    for power in low as i32..=high as i32 {
        let at = y(10.0_f64.powi(power));
        let end = left + WIDTH;
        add(format_args!("<path d=\"M{left} {at:.1}H{end}\" stroke=\"#ddd\"/>\n"));
        add(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            left - 6.0,
            at + 4.0,
            10.0_f64.powi(power)
        ));
    }
    add(format_args!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">epoch, 1 to {epochs}; mean training loss</text>\n",
        left + WIDTH / 2.0,
        MARGIN + HEIGHT + 20.0
    ));
    for (index, run) in runs.iter().enumerate() {
        let (color, dash) = (COLORS[index / 3 % COLORS.len()], DASHES[index % DASHES.len()]);
        let points: Vec<_> = run.losses.iter().enumerate().map(|(i, loss)| (x(i), y(*loss))).collect();
        let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let style =
            format!("stroke=\"{color}\" stroke-width=\"1.6\" stroke-dasharray=\"{dash}\" fill=\"none\"");
        add(format_args!("<path d=\"M{}\" {style}/>\n", path.join("L")));
        let row = (index % 3) as f64;
        let (at, top) = (left + COLUMNS[index / 3 % COLUMNS.len()], MARGIN + HEIGHT + 38.0 + row * 16.0);
        add(format_args!("<path d=\"M{at:.1} {top:.1}h22\" {style}/>\n"));
        let (text_at, text_top) = (at + 26.0, top + 4.0);
        add(format_args!(
            "<text x=\"{text_at:.1}\" y=\"{text_top:.1}\" font-size=\"10\">{}</text>\n",
            run.name
        ));
    }
}

/// One for each format of the parameter, and one for each of the momentum.
const COLORS: [&str; 4] = ["#222222", "#c03028", "#2878b8", "#2e8b57"];
/// Where the names of the runs begin, by format of the parameter.
const COLUMNS: [f64; 4] = [0.0, 92.0, 184.0, 345.0];
const DASHES: [&str; 3] = ["none", "6 3", "2 2"];
