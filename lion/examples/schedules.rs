//! Draws the pictures of the schedules' documentation: `cargo run -p lion --example schedules`.

use std::fmt::Write as _;
use std::path::Path;

use lion::schedule::{
    Constant, CosineDecay, CosineDecayRestarts, DecayShape, ExponentialDecay, InverseSquareRoot,
    InverseTimeDecay, LinearWarmup, OneCycle, PiecewiseConstantDecay, PolynomialDecay, WarmupStableDecay,
};
use lion::{Error, Schedule};

const STEPS: u64 = 1000;
const PEAK: f64 = 1e-3;

/// The size of the picture, and the borders of its plot.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 470.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 172.0;

/// Readable on white and on black.
const COLORS: [&str; 3] = ["#3b82f6", "#f97316", "#10b981"];
const GREY: &str = "#808080";

type Curves = Vec<(&'static str, Schedule)>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schedules");
    std::fs::create_dir_all(&folder)?;
    for (name, curves) in pictures()? {
        std::fs::write(folder.join(name).with_extension("svg"), picture(&curves)?)?;
    }
    Ok(())
}

fn pictures() -> Result<Vec<(&'static str, Curves)>, Error> {
    let exponential = ExponentialDecay::new(PEAK, 200.0, 0.5)?;
    let inverse = InverseTimeDecay::new(PEAK, 200.0, 1.0)?;
    let polynomial = PolynomialDecay::new(PEAK, 400.0)?;
    let cosine = CosineDecay::new(PEAK, 1000.0)?;
    let restarts = CosineDecayRestarts::new(PEAK, 140.0)?;
    let stable = WarmupStableDecay::new(PEAK, 100.0, 500.0, 400.0)?;
    Ok(vec![
        (
            "exponential_decay",
            vec![
                ("decay_rate 0.5", exponential.clone().into()),
                ("staircase", exponential.staircase(true).into()),
            ],
        ),
        (
            "inverse_time_decay",
            vec![("decay_rate 1", inverse.clone().into()), ("staircase", inverse.staircase(true).into())],
        ),
        (
            "piecewise_constant_decay",
            vec![(
                "boundaries 300, 600",
                PiecewiseConstantDecay::new([300.0, 600.0], [PEAK, 5e-4, 1e-4])?.into(),
            )],
        ),
        (
            "polynomial_decay",
            vec![
                ("power 1", polynomial.clone().into()),
                ("power 2", polynomial.clone().power(2.0)?.into()),
                ("power 0.5, cycle", polynomial.power(0.5)?.cycle(true).into()),
            ],
        ),
        (
            "cosine_decay",
            vec![
                ("alpha 0", cosine.clone().into()),
                ("alpha 0.2", cosine.alpha(0.2)?.into()),
                ("warmup of 100", CosineDecay::new(0.0, 900.0)?.warmup(PEAK, 100.0)?.into()),
            ],
        ),
        (
            "cosine_decay_restarts",
            vec![
                ("t_mul 2", restarts.clone().into()),
                ("t_mul 1, m_mul 0.8", restarts.t_mul(1.0)?.m_mul(0.8)?.into()),
            ],
        ),
        ("constant", vec![("0.001", Constant::new(PEAK)?.into())]),
        (
            "linear_warmup",
            vec![
                ("to a constant", LinearWarmup::new(200, Constant::new(PEAK)?)?.into()),
                (
                    "to an exponential decay",
                    LinearWarmup::new(200, ExponentialDecay::new(PEAK, 200.0, 0.5)?)?.into(),
                ),
            ],
        ),
        (
            "warmup_stable_decay",
            vec![
                ("linear", stable.clone().into()),
                ("cosine", stable.clone().shape(DecayShape::Cosine).into()),
                ("1 - sqrt", stable.shape(DecayShape::OneMinusSqrt).into()),
            ],
        ),
        ("inverse_square_root", vec![("warmup_steps 100", InverseSquareRoot::new(PEAK, 100.0)?.into())]),
        ("one_cycle", vec![("pct_start 0.3", OneCycle::new(PEAK, 1000.0)?.into())]),
    ])
}

/// It has no blank line, as Markdown would end the picture there.
fn picture(curves: &Curves) -> Result<String, std::fmt::Error> {
    let mut svg = String::new();
    let labels: Vec<_> = curves.iter().map(|(label, _)| *label).collect();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" style="max-width:100%" role="img" font-family="sans-serif" font-size="11" fill="{GREY}" aria-label="Learning rate by call: {}">"#,
        labels.join("; ")
    )?;
    writeln!(
        svg,
        r#"<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="{GREY}"/>
<text x="{label}" y="{top}" text-anchor="end">0.001</text>
<text x="{label}" y="{BOTTOM}" text-anchor="end">0</text>
<text x="{LEFT}" y="{under}">0</text>
<text x="{RIGHT}" y="{under}" text-anchor="end">call {STEPS}</text>"#,
        label = LEFT - 5.0,
        top = TOP + 8.0,
        under = BOTTOM + 16.0,
    )?;
    for (index, ((label, schedule), color)) in curves.iter().zip(COLORS).enumerate() {
        writeln!(svg, r#"<path d="{}" fill="none" stroke="{color}" stroke-width="2"/>"#, path(schedule)?)?;
        let x = LEFT + 142.0 * index as f64;
        writeln!(svg, r#"<path d="M{x} 12h14" stroke="{color}" stroke-width="2"/>"#)?;
        writeln!(svg, r#"<text x="{}" y="16">{label}</text>"#, x + 19.0)?;
    }
    writeln!(svg, "</svg>")?;
    Ok(svg)
}

/// Returns a point for each step, without those on the line between their neighbours.
fn path(schedule: &Schedule) -> Result<String, std::fmt::Error> {
    let point = |step: u64| {
        let x = LEFT + (RIGHT - LEFT) * step as f64 / STEPS as f64;
        let y = BOTTOM - (BOTTOM - TOP) * f64::from(schedule.at(step)) / PEAK;
        (x, y)
    };
    let mut path = String::new();
    let mut kept = point(0);
    write!(path, "M{:.1} {:.1}", kept.0, kept.1)?;
    let mut skipped: Vec<(f64, f64)> = Vec::new();
    for step in 1..=STEPS {
        let (x, y) = point(step);
        let off = |&(between, value): &(f64, f64)| {
            let on_line = kept.1 + (y - kept.1) * (between - kept.0) / (x - kept.0);
            (on_line - value).abs() > 0.15
        };
        if skipped.iter().any(off)
            && let Some(last) = skipped.pop()
        {
            write!(path, "L{:.1} {:.1}", last.0, last.1)?;
            kept = last;
            skipped.clear();
        }
        skipped.push((x, y));
    }
    let end = point(STEPS);
    write!(path, "L{:.1} {:.1}", end.0, end.1)?;
    Ok(path)
}
