//! The step against the streaming limit: `cargo bench -p lion-benches --bench limit [-- SECONDS-PER-LINE]`.
//!
//! Prints a Markdown table: for each backend, triple of formats and size the median ratio of the step's time to
//! that of [`lion_kernels::stream`] on the same buffers, timed in turn, with the 10th and 90th percentile.

use std::time::Duration;

use half::{bf16, f16};
use lion_autotune::measure::compare;
use lion_kernels::{Backend, Buffer, Element, Slice, SliceMut, Step, Tensors, stream};

const SIZES: [(&str, usize); 5] =
    [("1 K", 1 << 10), ("16 K", 1 << 14), ("256 K", 1 << 18), ("4 M", 1 << 22), ("64 M", 1 << 26)];

struct State<P: Element, G: Element, M: Element> {
    parameter: Buffer<P>,
    gradient: Buffer<G>,
    momentum: Buffer<M>,
}

fn line<P: Element, G: Element, M: Element>(
    seconds: f64,
    backend: Backend,
    (name, len): (&str, usize),
    one: (P, G),
) where
    for<'a> SliceMut<'a>: From<&'a mut [P]> + From<&'a mut [M]>,
    for<'a> Slice<'a>: From<&'a [G]>,
{
    let step = Step::new(1e-4, 0.9, 0.99).and_then(|step| step.weight_decay(0.1)).expect("valid settings");
    let mut state = State::<P, G, M> {
        parameter: Buffer::zeroed(len).expect("memory"),
        gradient: Buffer::zeroed(len).expect("memory"),
        momentum: Buffer::zeroed(len).expect("memory"),
    };
    state.parameter.fill(one.0);
    state.gradient.fill(one.1);
    let found = compare(
        Duration::from_secs_f64(seconds),
        &mut state,
        |state| {
            let tensors =
                Tensors::in_place(&mut state.parameter[..], &state.gradient[..], &mut state.momentum[..]);
            step.apply(backend, tensors).expect("a step");
        },
        |state| {
            stream(backend, &mut state.parameter[..], &state.gradient[..], &mut state.momentum[..])
                .expect("a pass");
        },
    );
    let bytes = 2 * size_of::<P>() + size_of::<G>() + 2 * size_of::<M>();
    let each = found.work.median / len as f64;
    println!(
        "| {backend} | {}/{}/{} | {name} | {each:.3} | {:.1} | {:.2} | {:.2}–{:.2} | {} |",
        P::DTYPE,
        G::DTYPE,
        M::DTYPE,
        bytes as f64 / each,
        found.ratio.median,
        found.ratio.p10,
        found.ratio.p90,
        found.samples,
    );
}

fn main() {
    let seconds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(1.0);
    println!(
        "| backend | parameter/gradient/momentum | elements | ns per element | GB/s | time / limit | p10–p90 | pairs |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for backend in Backend::available() {
        for size in SIZES {
            line::<f32, f32, f32>(seconds, backend, size, (1.0, 0.5));
            line::<bf16, bf16, bf16>(seconds, backend, size, (bf16::ONE, bf16::ONE));
            line::<f16, f16, f16>(seconds, backend, size, (f16::ONE, f16::ONE));
            line::<f32, bf16, f32>(seconds, backend, size, (1.0, bf16::ONE));
        }
    }
}
