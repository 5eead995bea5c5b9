//! Parameters that are gathered as directions have the bits of one process, and copies that differ are found.

mod common;

use common::model::{fits, model, plain};
use common::{Training, on_ranks};
use half::bf16;
use lion::{Dtype, Lion};
use lion_distributed::{
    CommunicationError, Communicator, Error, Gather, Settings, Sharded, ThreadCommunicator, Update, Variable,
};
use lion_kernels::Backend;
use lion_tests::Rng;
use lion_tests::model::{Clip, DecayScale, Options, Rule, Scale};
use lion_tests::scenario::Scenario;
use proptest::prelude::*;

const DIRECTIONS: Gather = Gather::Directions { check_every: 2 };

/// The part of any scenario that can be sharded and gathered so.
fn followable(mut scenario: Scenario) -> Scenario {
    for variable in &mut scenario.variables {
        variable.overwritten = false;
        variable.rule = variable.rule.map(|_| Rule::NonNegative);
    }
    scenario.options.ema_overwrite_frequency = None;
    scenario.split_master = false;
    scenario
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn any_training_ends_as_on_one_process(bytes in prop::collection::vec(any::<u8>(), 0..400), seed: u64) {
        let mut rng = Rng::with_seed(seed);
        if let Some(scenario) = Scenario::from_bytes(&bytes) {
            let leaves = [1, 2, 3, 4, 5, 6, 7, 8, 12][rng.usize(0..9)];
            let training = Training::new(followable(scenario), leaves, &mut rng);
            let backends: Vec<_> = Backend::available().collect();
            let backend = backends[rng.usize(0..backends.len())];
            let expected = training.alone(backend);
            let settings = Settings::new(leaves).bucket_bytes(1 << rng.u32(0..21)).gather(DIRECTIONS);
            for ranks in (1..=8).filter(|&ranks| fits(&training, ranks)) {
                training.agrees(ranks, backend, settings, &expected);
            }
        }
    }
}

/// Options that decide how far an element moves, which gradients are used, and which calls move nothing.
#[test]
fn every_option_on_one_to_eight_ranks() {
    let dynamic = Scale::Dynamic { initial: 1024.0, growth: 2 };
    let options = [
        plain(),
        Options { weight_decay: None, ..plain() },
        Options { cautious_decay: true, ..plain() },
        Options { decay_scale: DecayScale::Relative(0.05), ..plain() },
        Options { clip: Clip::Norm(0.5), cautious_decay: true, ..plain() },
        Options { clip: Clip::GlobalNorm(0.5), accumulation_steps: Some(3), scale: dynamic, ..plain() },
        Options { clip: Clip::Value(0.1), ema_momentum: Some(0.9), scale: Scale::Static(16.0), ..plain() },
    ];
    let mut ranks_seen = [false; 9];
    for (index, options) in options.into_iter().enumerate() {
        let momentum = [None, Some(Dtype::F32), Some(Dtype::BF16), Some(Dtype::Q8)][index % 4];
        let scenario = model(options, momentum, 7);
        for leaves in [5, 7, 8, 12] {
            let training = Training::new(scenario.clone(), leaves, &mut Rng::with_seed(index as u64));
            for backend in Backend::available() {
                let expected = training.alone(backend);
                for ranks in (1..=8).filter(|&ranks| fits(&training, ranks)) {
                    ranks_seen[ranks] = true;
                    let settings = Settings::new(leaves).bucket_bytes(70_000).gather(DIRECTIONS);
                    training.agrees(ranks, backend, settings, &expected);
                }
            }
        }
    }
    assert!(ranks_seen[1..].iter().all(|&seen| seen), "{ranks_seen:?}");
}

/// The draws depend on seed, name, call and index only, so all ranks draw the same.
#[test]
fn parameters_that_are_rounded_at_random() {
    let mut scenario = model(Options { cautious_decay: true, ..plain() }, Some(Dtype::Q8), 6);
    scenario.stochastic_rounding = Some(7);
    let training = Training::new(scenario, 12, &mut Rng::with_seed(3));
    for backend in Backend::available() {
        let expected = training.alone(backend);
        for ranks in [1, 2, 3, 4] {
            let settings = Settings::new(12).bucket_bytes(20_000).gather(DIRECTIONS);
            training.agrees(ranks, backend, settings, &expected);
        }
    }
}

const LEN: usize = 20_000;

fn sharded<C: Communicator>(communicator: C, gather: Gather) -> Sharded<C> {
    let variables = [Variable::new("a", &[LEN], Dtype::F32), Variable::new("b", &[9000], Dtype::BF16)];
    let optimizer = Lion::builder().learning_rate(0.01).build().expect("an optimizer");
    let settings = Settings::new(communicator.size()).gather(gather);
    Sharded::new(communicator, optimizer, &variables, settings).expect("an optimizer")
}

/// Counts the bytes that all-gathers receive.
struct Counting(ThreadCommunicator, usize);

impl Communicator for Counting {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn all_to_all(&mut self, send: &[u8], from: &[usize], receive: &mut [u8], to: &[usize]) -> Done {
        self.0.all_to_all(send, from, receive, to)
    }

    fn all_gather(&mut self, send: &[u8], receive: &mut [u8], counts: &[usize]) -> Done {
        self.1 += receive.len();
        self.0.all_gather(send, receive, counts)
    }

    fn all_reduce_min(&mut self, numbers: &mut [u64]) -> Done {
        self.0.all_reduce_min(numbers)
    }

    fn broadcast(&mut self, from: usize, bytes: &mut [u8]) -> Done {
        self.0.broadcast(from, bytes)
    }

    fn abort(&mut self, reason: &str) {
        self.0.abort(reason);
    }
}

type Done = Result<(), CommunicationError>;

/// Two bits an element: a sixteenth of f32 and an eighth of bf16, to a group of 64 elements for each variable.
#[test]
fn the_gather_is_of_two_bits_an_element() {
    let gathered = |gather| {
        let counted = on_ranks(4, |communicator| {
            let mut sharded = sharded(Counting(communicator, 0), gather);
            let (mut a, mut b) = (vec![1.0_f32; LEN], vec![bf16::ONE; 9000]);
            let (of_a, of_b) = ([(&[0.5; LEN]).into()], [(&[-0.5; 9000]).into()]);
            let ids = sharded.ids().to_vec();
            let mut updates = [Update::new(ids[0], &mut a, &of_a), Update::new(ids[1], &mut b, &of_b)];
            sharded.apply(&mut updates).expect("applied");
            sharded.communicator().1
        });
        assert!(counted.iter().all(|&count| count == counted[0]), "{counted:?}");
        counted[0]
    };
    assert_eq!(gathered(Gather::Parameters), 4 * LEN + 2 * 9000);
    let groups = LEN.div_ceil(64) + 9000_usize.div_ceil(64);
    assert_eq!(gathered(DIRECTIONS), 16 * groups);
}

/// A copy that differs in one element, on one rank, in the first call or later: all ranks hear of it, and nothing changes.
#[test]
fn a_copy_that_differs_is_an_error_on_all_ranks() {
    for (odd, changes_before) in [(0, 0), (1, 0), (2, 2), (1, 4)] {
        let errors = on_ranks(3, |communicator| {
            let rank = communicator.rank();
            let mut sharded = sharded(communicator, DIRECTIONS);
            let (mut a, mut b) = (vec![1.0_f32; LEN], vec![bf16::ONE; 9000]);
            for call in 0.. {
                if rank == odd && call == changes_before {
                    b[8999] = bf16::NEG_ONE;
                }
                let before = (a.clone(), b.clone());
                let (of_a, of_b) = ([(&[0.5; LEN]).into()], [(&[-0.5; 9000]).into()]);
                let ids = sharded.ids().to_vec();
                let mut updates = [Update::new(ids[0], &mut a, &of_a), Update::new(ids[1], &mut b, &of_b)];
                match sharded.apply(&mut updates) {
                    Ok(_) => assert!(call < 5, "it has not been found"),
                    Err(error) => {
                        assert_eq!((call, sharded.optimizer().iterations()), (changes_before, call));
                        assert!(before == (a, b));
                        return error.to_string();
                    }
                }
            }
            unreachable!("the loop ends with an error")
        });
        for error in &errors {
            let rank = if odd == 0 { 1 } else { odd };
            let start = format!("the parameters of rank {rank}: \"b\" has the digest ");
            assert!(error.starts_with(&start), "{error}");
            assert!(error.contains("; expected \"b\" has the digest "), "{error}");
        }
    }
}

#[test]
fn what_directions_cannot_carry_is_refused() {
    let refused = |builder: lion::Builder, gather| {
        let optimizer = builder.build().expect("an optimizer");
        let variables = [Variable::new("a", &[LEN], Dtype::BF16)];
        let found = on_ranks(2, |communicator| {
            Sharded::new(communicator, optimizer.clone(), &variables, Settings::new(2).gather(gather))
                .err()
                .as_ref()
                .map(Error::to_string)
        });
        found.into_iter().next().flatten().expect("an error")
    };
    assert_eq!(
        refused(Lion::builder().split_master(true), DIRECTIONS),
        "gather is Directions with split_master for \"a\"; expected Parameters, as low halves are with the owner of an \
         element"
    );
    assert_eq!(
        refused(Lion::builder().use_ema(true).ema_overwrite_frequency(5), DIRECTIONS),
        "gather is Directions with ema_overwrite_frequency; expected Parameters, as averages are with the owner of an \
         element"
    );
    let never = Gather::Directions { check_every: 0 };
    assert_eq!(refused(Lion::builder(), never), "check_every is 0; expected at least 1");
}
