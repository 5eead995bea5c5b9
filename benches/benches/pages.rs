//! Bench of huge pages: `cargo bench -p lion-benches --bench pages [-- SECONDS-PER-LINE]`.
//!
//! Times an f32 step on one thread, alternately on ordinary vectors and on vectors that
//! [`lion_kernels::advise_huge_pages`] was called for. Prints a Markdown table. The two are equal if the system grants
//! huge pages without being asked.

use std::time::Duration;

use lion_autotune::measure::{Calls, compare};
use lion_kernels::{Backend, LionStep, StepTensors, Task, advise_huge_pages};

struct State([Vec<f32>; 3]);

impl State {
    fn new(len: usize) -> Self {
        State([vec![1.0; len], vec![1.0; len], vec![1.0; len]])
    }

    fn step(&mut self, step: LionStep) {
        let [parameter, gradient, momentum] = &mut self.0;
        let tensors = StepTensors::in_place(parameter, &gradient[..], momentum);
        let mut task = Task::step(step, tensors).expect("tensors of one length");
        task.run(Backend::best()).expect("an available backend");
    }
}

fn main() {
    let seconds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(1.0);
    let time = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(1));
    let step = LionStep::new(1e-4, 0.9, 0.99).expect("valid settings");
    println!(
        "| elements | huge pages had | ordinary, ns | advised, ns | ordinary / advised | p10–p90 | pairs |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (size, len) in [("4 M", 1 << 22), ("16 M", 1 << 24), ("64 M", 1 << 26)] {
        let (ordinary, mut advised) = (State::new(len), State::new(len));
        let pages = advised.0.each_mut().map(|tensor| advise_huge_pages(tensor));
        let (had, of) = pages.iter().fold((0, 0), |(had, of), it| (had + it.collapsed, of + it.whole));
        let mut both = [ordinary, advised];
        let found =
            compare(time, Calls::BackToBack, &mut both, |[it, _]| it.step(step), |[_, it]| it.step(step));
        println!(
            "| {size} | {had} of {of} | {:.3} | {:.3} | {:.2} | {:.2}–{:.2} | {} |",
            found.work.median / len as f64,
            found.baseline.median / len as f64,
            found.ratio.median,
            found.ratio.p10,
            found.ratio.p90,
            found.samples,
        );
    }
}
