//! The bits of a sharded optimizer are those of one process, for any number of ranks: parameters, momentum, averages,
//! accumulators and metrics after every call.

mod common;

use common::model::{fits, model, plain};
use common::{Snapshot, Training, metrics_text, on_ranks};
use lion::{Dtype, TensorBuf};
use lion_distributed::{Settings, Sharded, Variable, Wire};
use lion_kernels::{Backend, STATISTICS_BLOCK, reference};
use lion_tests::model::{Clip, Options, Rule, Scale};
use lion_tests::scenario::Scenario;
use lion_tests::{Rng, widened};
use proptest::prelude::*;

/// What can be sharded of any scenario.
fn shardable(mut scenario: Scenario) -> Scenario {
    for variable in &mut scenario.variables {
        variable.overwritten = false;
        variable.rule = variable.rule.map(|_| Rule::NonNegative);
    }
    scenario
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn any_training_ends_as_on_one_process(bytes in prop::collection::vec(any::<u8>(), 0..400), seed: u64) {
        let mut rng = Rng::with_seed(seed);
        if let Some(scenario) = Scenario::from_bytes(&bytes) {
            let leaves = [1, 2, 3, 4, 5, 6, 7, 8, 12][rng.usize(0..9)];
            let training = Training::new(shardable(scenario), leaves, &mut rng);
            let backends: Vec<_> = Backend::available().collect();
            let backend = backends[rng.usize(0..backends.len())];
            let expected = training.alone(backend);
            let settings = Settings::new(leaves).bucket_bytes(1 << rng.u32(0..21));
            for ranks in (1..=8).filter(|&ranks| fits(&training, ranks)) {
                training.agrees(ranks, backend, settings, &expected);
            }
        }
    }
}

/// Every option by itself and several together, on 1 to 8 ranks.
#[test]
fn every_option_on_one_to_eight_ranks() {
    let dynamic = Scale::Dynamic { initial: 1024.0, growth: 2 };
    let options = [
        plain(),
        Options { weight_decay: None, ..plain() },
        Options { clip: Clip::Norm(0.5), ..plain() },
        Options { clip: Clip::GlobalNorm(0.5), ..plain() },
        Options { clip: Clip::Value(0.1), ..plain() },
        Options { scale: Scale::Static(16.0), ..plain() },
        Options { scale: dynamic, ..plain() },
        Options { accumulation_steps: Some(2), ..plain() },
        Options { ema_momentum: Some(0.5), ..plain() },
        Options { ema_momentum: Some(0.5), ema_overwrite_frequency: Some(2), ..plain() },
        Options { clip: Clip::GlobalNorm(0.5), accumulation_steps: Some(3), scale: dynamic, ..plain() },
        Options {
            clip: Clip::Norm(0.5),
            accumulation_steps: Some(2),
            ema_momentum: Some(0.9),
            ema_overwrite_frequency: Some(1),
            scale: dynamic,
            ..plain()
        },
        Options { ema_momentum: Some(0.9), ema_every_update: true, accumulation_steps: Some(2), ..plain() },
    ];
    let mut ranks_seen = [false; 9];
    let mut outcomes = String::new();
    for (index, options) in options.into_iter().enumerate() {
        let momentum = [None, Some(Dtype::F32), Some(Dtype::BF16), Some(Dtype::F16)][index % 4];
        let scenario = model(options, momentum, 7);
        for leaves in [5, 7, 8, 12] {
            let training = Training::new(scenario.clone(), leaves, &mut Rng::with_seed(index as u64));
            for backend in Backend::available() {
                let expected = training.alone(backend);
                outcomes.extend(expected.iter().map(|it| it.metrics.as_str()));
                for ranks in (1..=8).filter(|&ranks| fits(&training, ranks)) {
                    ranks_seen[ranks] = true;
                    training.agrees(ranks, backend, Settings::new(leaves).bucket_bytes(70_000), &expected);
                }
            }
        }
    }
    assert!(ranks_seen[1..].iter().all(|&seen| seen), "{ranks_seen:?}");
    for outcome in ["Updated", "Accumulated", "Skipped", "clipped: Some(true)"] {
        assert!(outcomes.contains(outcome), "no call was {outcome}");
    }
}

/// Formats that move fewer bytes: 8-bit momentum, the low halves of bf16 parameters, which stay with their owner, and
/// stores that are rounded at random.
#[test]
fn every_narrow_format_on_one_to_four_ranks() {
    for (index, stochastic) in [None, Some(7), None].into_iter().enumerate() {
        let options = Options { clip: Clip::GlobalNorm(0.5), ema_momentum: Some(0.5), ..plain() };
        let mut scenario = model(options, Some(Dtype::Q8), 6);
        (scenario.stochastic_rounding, scenario.split_master) = (stochastic, index == 2);
        let training = Training::new(scenario, 12, &mut Rng::with_seed(index as u64));
        for backend in Backend::available() {
            let expected = training.alone(backend);
            for ranks in [1, 2, 3, 4] {
                training.agrees(ranks, backend, Settings::new(12).bucket_bytes(70_000), &expected);
            }
        }
    }
}

/// After two steps a wrong order of the sum shows in the momentum, so the order must matter for these gradients.
#[test]
fn another_order_of_the_leaves_gives_other_bits() {
    let mut training = Training::new(model(plain(), Some(Dtype::F32), 3), 8, &mut Rng::with_seed(1));
    let before = training.alone(Backend::Scalar);
    for leaves in training.gradients.iter_mut().flatten().flatten() {
        leaves.swap(1, 6);
    }
    let after = training.alone(Backend::Scalar);
    let differ = |a: &Snapshot, b: &Snapshot| a.state[0][0] != b.state[0][0];
    assert!(before.iter().zip(&after).any(|(a, b)| differ(a, b)));
}

/// Sums rounded to bf16 on the wire: the mean is that of the rounded sums of each rank.
#[test]
fn bf16_on_the_wire() {
    const LEAVES: usize = 8;
    let training = Training::new(model(plain(), None, 3), LEAVES, &mut Rng::with_seed(2));
    let settings = Settings::new(LEAVES).wire(Wire::Bf16).bucket_bytes(50_000);
    let mut bits = Vec::new();
    for ranks in [1, 2, 4, 8] {
        // The same training with one leaf for each rank: its sum, rounded, and scaled so that the mean divides by 8.
        let scale = (LEAVES / ranks) as f32;
        let rounded = |leaves: &Vec<TensorBuf>| {
            let of_rank = |own: &[TensorBuf]| {
                let values: Vec<Vec<f32>> = own.iter().map(|leaf| widened(leaf.to_ref())).collect();
                let slices: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
                let mut sum = vec![half::bf16::ZERO; own[0].len()];
                reference::sum(&slices, false, &mut sum);
                let mut made = TensorBuf::zeroed(Dtype::F32, sum.len()).expect("memory");
                let values: Vec<f32> = sum.iter().map(|value| value.to_f32() / scale).collect();
                made.to_mut().write_f32(0, &values).expect("as long");
                made
            };
            leaves.chunks(LEAVES / ranks).map(of_rank).collect()
        };
        let gradients = training.gradients.iter();
        let gradients =
            gradients.map(|call| call.iter().map(|leaves| leaves.as_ref().map(rounded)).collect()).collect();
        let alone = Training { scenario: training.scenario.clone(), leaves: ranks, gradients };
        let expected = alone.alone(Backend::Scalar);
        training.agrees(ranks, Backend::best(), settings, &expected);
        bits.push(expected.into_iter().last().map(|it| it.state));
    }
    assert!(bits[0] != bits[1] && bits[1] != bits[3], "the wire must round");
}

/// State is momentum in 8 bits, averages and accumulators. Blocks of 4,096 elements make shards uneven, by less than 2 % in
/// a model of 1.6 M elements.
#[test]
fn the_state_of_a_rank_takes_its_share_of_the_bytes() {
    let shapes: [&[usize]; 4] = [&[1000, 1024], &[1024], &[512, 1024], &[2]];
    let variables = |dtype| {
        let named = shapes.iter().enumerate();
        named.map(|(index, shape)| Variable::new(&format!("v{index}"), shape, dtype)).collect::<Vec<_>>()
    };
    let bytes = |optimizer: &lion::Lion| -> usize {
        let of = |it: lion::VariableView<'_>| {
            let floats = it.ema.map_or(0, <[f32]>::len) + it.accumulator.map_or(0, <[f32]>::len);
            it.momentum.map_or(0, |it| it.dtype().bytes(it.len())) + 4 * floats
        };
        optimizer.variables().map(of).sum()
    };
    for dtype in [Dtype::F32, Dtype::BF16] {
        let share = |ranks: usize| {
            on_ranks(ranks, |communicator| {
                let optimizer = lion::Lion::builder()
                    .use_ema(true)
                    .gradient_accumulation_steps(2)
                    .set("momentum_dtype", "q8")
                    .build()
                    .expect("an optimizer");
                let settings = Settings::new(ranks);
                bytes(
                    Sharded::new(communicator, optimizer, &variables(dtype), settings)
                        .expect("made")
                        .optimizer(),
                )
            })
        };
        let whole = share(1)[0];
        for ranks in 2..=4 {
            for (rank, found) in share(ranks).into_iter().enumerate() {
                let part = (found * ranks) as f64 / whole as f64;
                assert!((0.98..1.02).contains(&part), "rank {rank} of {ranks}: {part} of an even share");
            }
        }
    }
}

/// The shards of all ranks are all elements, each once.
#[test]
fn the_memory_of_a_rank_is_its_share() {
    let training = Training::new(model(plain(), None, 1), 4, &mut Rng::with_seed(3));
    let held = on_ranks(4, |communicator| {
        let sharded =
            training.sharded(communicator, Backend::best(), Settings::new(4)).expect("an optimizer");
        sharded.optimizer().variables().map(|it| it.momentum.map_or(0, |it| it.len())).sum::<usize>()
    });
    let total: usize = training.lengths().iter().sum();
    assert_eq!(held.iter().sum::<usize>(), total);
    assert!(held.iter().all(|&held| held <= total / 4 + STATISTICS_BLOCK), "{held:?} of {total}");
}

/// Means that every rank has already, beside leaves that are reduced here.
#[test]
fn gradients_that_are_averaged_elsewhere() {
    let options = Options { clip: Clip::Norm(0.5), accumulation_steps: Some(2), ..plain() };
    let training = Training::new(model(options, None, 6), 4, &mut Rng::with_seed(5));
    let expected = training.alone(Backend::Scalar);
    for ranks in [1, 2, 4] {
        on_ranks(ranks, |communicator| {
            let mut sharded =
                training.sharded(communicator, Backend::best(), Settings::new(4)).expect("an optimizer");
            let mut parameters = training.parameters();
            for (call, expected) in expected.iter().enumerate() {
                let metrics = training.averaged_call(&mut sharded, call, &mut parameters);
                let found = Snapshot::new(sharded.optimizer(), &parameters, metrics_text(metrics));
                found.must_be_part_of(expected, || format!("call {call} on {ranks} ranks"));
            }
        });
    }
}
