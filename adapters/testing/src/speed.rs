//! Measures the adapters' steps against the framework's own optimizer and the slice API, and prints a Markdown table.

use std::time::Duration;

use lion::{Dtype, Lion, Update, VariableId};
use lion_autotune::measure::{Calls, Comparison, compare};

/// A number of tensors of equal size.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The name in the table.
    pub name: &'static str,
    /// The number of tensors.
    pub tensors: usize,
    /// The number of elements of each tensor.
    pub elements: usize,
}

/// The sizes at which the adapters are measured.
pub const SIZES: [Size; 4] = [
    Size { name: "16 K", tensors: 1, elements: 1 << 14 },
    Size { name: "4 M", tensors: 1, elements: 1 << 22 },
    Size { name: "2,000 × 4,096", tensors: 2000, elements: 4096 },
    Size { name: "64 M", tensors: 1, elements: 1 << 26 },
];

/// The measured optimizers. They update a number of f32 parameters, each with a constant gradient.
pub trait Step {
    /// Makes one step of the adapter.
    fn adapter(&mut self);
    /// Makes one step of the framework's own optimizer. Returns `false` if the framework has none.
    fn stock(&mut self) -> bool;
    /// Runs the framework's work around an optimizer, with one that does nothing. Returns `false` if there is no such
    /// work.
    fn idle(&mut self) -> bool {
        false
    }
}

/// The learning rate of the measurements. It keeps ordinary values ordinary.
pub const LEARNING_RATE: f64 = 1e-6;

/// Returns the elements of a parameter and of its gradient.
pub fn ordinary(elements: usize) -> (Vec<f32>, Vec<f32>) {
    let gradient = (0..elements).map(|index| if index % 3 == 0 { -0.01 } else { 0.01 });
    (vec![1.0; elements], gradient.collect())
}

/// The same work with the slice API.
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

/// Measures every size and prints the table. The first number among the program's arguments is the duration of each
/// comparison in seconds. The optional second number is the maximum number of elements; larger sizes are left out.
///
/// # Panics
/// If a step fails.
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

/// The columns of a comparison that a framework does not have.
const NONE: &str = "– | – | –";

fn ratio(found: &Comparison) -> String {
    format!("{:.2} | {:.2}–{:.2}", found.ratio.median, found.ratio.p10, found.ratio.p90)
}

fn milliseconds(nanoseconds: f64) -> String {
    format!("{:.4}", nanoseconds / 1e6)
}
