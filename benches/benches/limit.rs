//! Bench of the step against the bandwidth bound: `cargo bench -p lion-benches --bench limit [-- SECONDS-PER-LINE]`.
//!
//! Prints a Markdown table with one line per backend, formats and size. A line holds the median ratio of the step's
//! time to the time of [`Task::bandwidth_step`](lion_kernels::Task::bandwidth_step) on the fastest backend and the same
//! tensors. The step's time includes the public call. The two are timed alternately.

use std::time::Duration;

use half::{bf16, f16};
use lion_autotune::measure::{Calls, compare};
use lion_benches::{State, Trial};
use lion_kernels::Backend;

const SIZES: [(&str, usize); 5] =
    [("1 K", 1 << 10), ("16 K", 1 << 14), ("256 K", 1 << 18), ("4 M", 1 << 22), ("64 M", 1 << 26)];

fn lines<P: Trial, G: Trial, M: Trial>(time: Duration, backend: Backend, size: (&str, usize)) {
    line::<P, G, M>(time, backend, size, false);
    line::<P, G, M>(time, backend, size, true);
}

fn line<P: Trial, G: Trial, M: Trial>(
    time: Duration,
    backend: Backend,
    (size, len): (&str, usize),
    decay: bool,
) {
    let best = Backend::best();
    let mut state = State::<P, G, M>::new(len, decay);
    let found =
        compare(time, Calls::BackToBack, &mut state, |state| state.step(backend), |state| state.stream(best));
    println!(
        "| {backend} | {}/{}/{} | {} | {size} | {:.3} | {:.1} | {:.2} | {:.2}–{:.2} | {} |",
        P::DTYPE,
        G::DTYPE,
        M::DTYPE,
        if decay { "with" } else { "without" },
        found.work.median / len as f64,
        state.bytes() as f64 / found.work.median,
        found.ratio.median,
        found.ratio.p10,
        found.ratio.p90,
        found.samples,
    );
}

fn main() {
    let seconds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(1.0);
    let time = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(1));
    println!(
        "| backend | formats | decay | elements | ns per element | GB/s | time / limit | p10–p90 | pairs |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for backend in Backend::available() {
        for size in SIZES {
            lines::<f32, f32, f32>(time, backend, size);
            lines::<bf16, bf16, bf16>(time, backend, size);
            lines::<f16, f16, f16>(time, backend, size);
            lines::<f32, bf16, f32>(time, backend, size);
        }
    }
}
