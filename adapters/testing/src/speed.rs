//! The time of an optimizer's step beside that of a framework's own and that of the slice API, as a Markdown table.

use std::time::Duration;

use lion::{Dtype, Lion, Update, VariableId};
use lion_autotune::measure::{Calls, Comparison, compare};

/// A set of equal tensors.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// What the table calls it.
    pub name: &'static str,
    /// How many tensors there are.
    pub tensors: usize,
    /// Elements of each.
    pub elements: usize,
}

/// The sizes that the adapters are measured at.
pub const SIZES: [Size; 4] = [
    Size { name: "16 K", tensors: 1, elements: 1 << 14 },
    Size { name: "4 M", tensors: 1, elements: 1 << 22 },
    Size { name: "2,000 × 4,096", tensors: 2000, elements: 4096 },
    Size { name: "64 M", tensors: 1, elements: 1 << 26 },
];

/// What is measured: one f32 parameter after the other, each with a gradient that does not change.
pub trait Step {
    /// One step of the adapter.
    fn adapter(&mut self);
    /// One step of the framework's own optimizer; `false` where it has none.
    fn stock(&mut self) -> bool;
    /// What the framework does around any optimizer, with one that does nothing; `false` where nothing is between.
    fn idle(&mut self) -> bool {
        false
    }
}

/// The learning rate of the measurements, at which ordinary values stay ordinary.
pub const LEARNING_RATE: f64 = 1e-6;

/// The parameter's and the gradient's elements.
pub fn ordinary(elements: usize) -> (Vec<f32>, Vec<f32>) {
    let gradient = (0..elements).map(|index| if index % 3 == 0 { -0.01 } else { 0.01 });
    (vec![1.0; elements], gradient.collect())
}

/// The same work by slices.
struct Slices {
    lion: Lion,
    variables: Vec<(VariableId, Vec<f32>, Vec<f32>)>,
}

impl Slices {
    fn new(size: Size) -> Result<Self, lion::Error> {
        let mut lion = Lion::builder().learning_rate(LEARNING_RATE).build()?;
        let mut variables = Vec::new();
        for index in 0..size.tensors {
            let id = lion.register(&index.to_string(), &[size.elements], Dtype::F32)?;
            let (parameter, gradient) = ordinary(size.elements);
            variables.push((id, parameter, gradient));
        }
        Ok(Slices { lion, variables })
    }

    fn step(&mut self) {
        let update = |variable| {
            let (id, parameter, gradient): &mut (VariableId, Vec<f32>, Vec<f32>) = variable;
            Update::new(*id, &mut parameter[..], &gradient[..])
        };
        let mut updates: Vec<_> = self.variables.iter_mut().map(update).collect();
        self.lion.apply(&mut updates).expect("valid tensors");
    }
}

/// Measures every size and prints the table. The first number among the program's arguments is the seconds that each
/// comparison takes; sizes with more elements than the second number, if there is one, are left out.
///
/// # Panics
/// Where a step fails.
pub fn table<S: Step>(stock: &str, make: impl Fn(Size) -> S) {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse::<f64>().ok());
    let time = numbers.next().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let time = time.unwrap_or(Duration::from_secs(5));
    let most = numbers.next().unwrap_or(f64::INFINITY);
    println!(
        "| elements | step, ms | slice API, ms | step / slice API | p10–p90 | {stock}, ms | {stock} / step | p10–p90 | idle, ms | idle / slice API | p10–p90 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for size in SIZES.into_iter().filter(|size| (size.tensors * size.elements) as f64 <= most) {
        let mut state = (make(size), Slices::new(size).expect("memory"));
        let slices = compare(
            time,
            Calls::BackToBack,
            &mut state,
            |(step, _)| step.adapter(),
            |(_, slices)| slices.step(),
        );
        let own = match state.0.stock() {
            true => {
                let found = compare(
                    time,
                    Calls::BackToBack,
                    &mut state,
                    |(step, _)| assert!(step.stock()),
                    |(step, _)| step.adapter(),
                );
                format!("{} | {}", milliseconds(found.work.median), ratio(&found))
            }
            false => NONE.to_owned(),
        };
        let idle = match state.0.idle() {
            true => {
                let found = compare(
                    time,
                    Calls::BackToBack,
                    &mut state,
                    |(step, _)| assert!(step.idle()),
                    |(_, slices)| slices.step(),
                );
                format!("{} | {}", milliseconds(found.work.median), ratio(&found))
            }
            false => NONE.to_owned(),
        };
        let (work, limit) = (milliseconds(slices.work.median), milliseconds(slices.baseline.median));
        println!("| {} | {work} | {limit} | {} | {own} | {idle} |", size.name, ratio(&slices));
    }
}

/// The columns of what a framework has not.
const NONE: &str = "– | – | –";

fn ratio(found: &Comparison) -> String {
    format!("{:.2} | {:.2}–{:.2}", found.ratio.median, found.ratio.p10, found.ratio.p90)
}

fn milliseconds(nanoseconds: f64) -> String {
    format!("{:.4}", nanoseconds / 1e6)
}
