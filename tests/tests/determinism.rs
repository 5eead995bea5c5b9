//! One run with every option on, and one digest of all its results: for every backend, thread count and chunk size, at
//! any alignment, on small and huge pages, as one tensor and as a thousand.

use std::sync::LazyLock;

use lion::prelude::*;
use lion::{Plan, TensorMut, TensorRef};
use lion_kernels::{Arena, Backend};
use lion_tests::alone::convert;
use lion_tests::{Rng, on_each_backend, with_sample};
use rayon::ThreadPoolBuilder;
use sha2::{Digest, Sha256};

/// The digest that the README documents.
const STATED: &str = "c5b6fab73fdacb5420e6817e228361ed9f5b50dc536d8dfb6f16ab3ed9a4c997";

on_each_backend!(one_digest);

const PIECES: usize = 1000;
const PIECE: usize = 600;
const CALLS: usize = 7;

/// The layout of a run, which does not affect the bits.
#[derive(Clone, Copy, Debug)]
struct Layout {
    pieces: usize,
    /// The distance in elements from a 64-byte boundary to the first element.
    misalignment: usize,
    huge_pages: bool,
}

/// Returns numbers of many magnitudes, including zeros and subnormals.
fn numbers(rng: &mut Rng, len: usize) -> Vec<f32> {
    let number = |rng: &mut Rng| match rng.u32(0..16) {
        0 => 0.0,
        1 => -0.0,
        2 => f32::from_bits(rng.u32(1..1 << 23)),
        _ => (rng.f32() * 2.0 - 1.0) * 2.0_f32.powi(rng.i32(-12..4)),
    };
    (0..len).map(|_| number(rng)).collect()
}

/// The parameter and the gradient of each step.
static VALUES: LazyLock<[Vec<f32>; 1 + CALLS]> = LazyLock::new(|| {
    let mut rng = Rng::with_seed(0x5eed);
    let mut values = std::array::from_fn(|_| numbers(&mut rng, PIECES * PIECE));
    // The dynamic loss scale skips this step.
    values[5][PIECES * PIECE / 2] = f32::INFINITY;
    values
});

/// A tensor at an offset from the start of its memory.
struct Tensor {
    arena: Arena,
    misalignment: usize,
}

impl Tensor {
    fn new(layout: Layout, dtype: Dtype, values: &[f32]) -> Self {
        let mut arena = if layout.huge_pages { Arena::new() } else { Arena::without_huge_pages() };
        let padded = [&vec![0.0; layout.misalignment], values].concat();
        arena.push(dtype, padded.len()).expect("memory");
        let tensor = arena.tensor_mut(0).expect("is there");
        convert(Backend::Scalar, &padded, tensor).expect("equal lengths");
        Tensor { arena, misalignment: layout.misalignment }
    }

    fn pieces(&self, len: usize) -> Vec<TensorRef<'_>> {
        let from = self.misalignment;
        let tensor = self.arena.tensor(0).expect("is there");
        starts(from, tensor.len(), len).map(|part| tensor.range(part).expect("within")).collect()
    }

    fn pieces_mut(&mut self, len: usize) -> Vec<TensorMut<'_>> {
        let from = self.misalignment;
        let tensor = self.arena.tensor_mut(0).expect("is there");
        with_sample!(tensor.dtype(), T => {
            let elements = tensor.into_slice::<T>().expect("its dtype");
            elements[from..].chunks_mut(len).map(TensorMut::from).collect()
        })
    }
}

/// Returns the ranges of `each` elements from `from` to the end.
fn starts(from: usize, len: usize, each: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (from..len).step_by(each).map(move |start| start..len.min(start + each))
}

fn feed(digest: &mut Sha256, tensor: TensorRef<'_>) {
    for stream in (0..).map_while(|index| tensor.stream(index)) {
        with_sample!(stream.dtype(), T => {
            for element in stream.as_slice::<T>().expect("its dtype") {
                digest.update(element.to_le_bytes());
            }
        });
    }
}

/// Returns an optimizer with decay, a schedule, accumulation, global norm clipping, an EMA that overwrites, and a
/// dynamic loss scale that doubles and halves.
fn optimizer(plan: Plan, momentum: Dtype, store: Store) -> Lion {
    let mut scale = DynamicLossScale::default();
    (scale.initial_scale, scale.dynamic_growth_steps) = (256.0, 2);
    let builder = Lion::builder().learning_rate(CosineDecay::new(0.01, 20.0).expect("valid"));
    let builder = builder.weight_decay(0.1).global_clipnorm(30.0);
    let builder = builder.gradient_accumulation_steps(2).ema(0.9).ema_overwrite_frequency(2);
    let builder = match store {
        Store::Nearest => builder,
        Store::Stochastic => builder.stochastic_rounding(11).cautious_decay(true),
        Store::Split => builder.split_master(true).decay_scale(DecayScale::Relative(0.1)),
    };
    builder.dynamic_loss_scale(scale).momentum_dtype(momentum).plan(plan).build().expect("valid")
}

/// The storage of the parameter.
#[derive(Clone, Copy)]
enum Store {
    Nearest,
    Stochastic,
    Split,
}

fn run(digest: &mut Sha256, plan: Plan, layout: Layout, [p, g, m]: [Dtype; 3], store: Store) {
    let [values, gradients @ ..] = &*VALUES;
    let mut parameter = Tensor::new(layout, p, values);
    let mut optimizer = optimizer(plan, m, store);
    let each = values.len() / layout.pieces;
    let ids: Vec<_> = (0..layout.pieces)
        .map(|piece| optimizer.register(&format!("v{piece}"), &[each], p).expect("new"))
        .collect();
    for gradient in gradients {
        let gradient = Tensor::new(layout, g, gradient);
        let tensors = parameter.pieces_mut(each).into_iter().zip(gradient.pieces(each)).zip(&ids);
        let mut updates: Vec<_> = tensors.map(|((p, g), &id)| Update::new(id, p, g)).collect();
        let metrics = optimizer.apply(&mut updates).expect("valid");
        digest.update(metrics.gradient_norm.unwrap_or(0.0).to_le_bytes());
    }
    parameter.pieces(each).into_iter().for_each(|piece| feed(digest, piece));
    let views: Vec<_> = optimizer.variables().collect();
    views.iter().filter_map(|view| view.momentum).for_each(|tensor| feed(digest, tensor));
    views.iter().filter_map(|view| view.low).for_each(|tensor| feed(digest, tensor.into()));
    views.iter().filter_map(|view| view.ema).for_each(|tensor| feed(digest, tensor.into()));
    views.iter().filter_map(|view| view.accumulator).for_each(|tensor| feed(digest, tensor.into()));
    let (scale, counter) = optimizer.dynamic_loss_scale().expect("is on");
    digest.update(scale.to_le_bytes());
    digest.update(counter.to_le_bytes());
}

fn digest(plan: Plan, layout: Layout) -> String {
    let mut digest = Sha256::new();
    run(&mut digest, plan, layout, [Dtype::F32; 3], Store::Nearest);
    run(&mut digest, plan, layout, [Dtype::BF16, Dtype::F16, Dtype::F32], Store::Nearest);
    // Random numbers and scales belong to a variable: split variables have different ones.
    let layout = Layout { pieces: PIECES, ..layout };
    run(&mut digest, plan, layout, [Dtype::BF16; 3], Store::Stochastic);
    run(&mut digest, plan, layout, [Dtype::BF16, Dtype::BF16, Dtype::Q8], Store::Split);
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn one_digest(backend: Backend) {
    let mut combinations = 0_usize;
    for threads in [1, 2, 3, 8] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        for chunk in [1, 4096, 12_288, 40_000, 262_144, usize::MAX] {
            // Every layout with every thread count, and with half of the chunk sizes.
            let bit = |place: usize| ((combinations + combinations / 8) >> place) & 1 == 1;
            let layout = Layout {
                pieces: if bit(0) { PIECES } else { 1 },
                misalignment: if bit(1) { 1 + combinations % 15 } else { 0 },
                huge_pages: bit(2),
            };
            let plan = Plan::new(backend).threads(threads).chunk_elements(chunk).parallel_threshold(0);
            let found = pool.install(|| digest(plan, layout));
            assert_eq!(found, STATED, "{plan:?}, {layout:?}");
            combinations += 1;
        }
    }
    println!("{backend}: {STATED}");
}

#[test]
fn the_readme_states_it() {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).expect("a README");
    assert!(readme.contains(STATED), "the README does not state {STATED}");
}
