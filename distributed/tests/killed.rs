//! Processes killed while they save, on changing numbers of ranks: the checkpoint is whole each time, never older than the
//! last one seen, and by bits what one process has after as many calls.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::on_ranks;
use lion::{Dtype, Lion, VariableId};
use lion_distributed::checkpoint::Index;
use lion_distributed::{Communicator, Settings, Sharded, ThreadCommunicator, Update, Variable};
use lion_kernels::reference;
use lion_tests::Rng;

const LEAVES: usize = 12;
const LENGTHS: [usize; 2] = [30_000, 7];
const FOLDER: &str = "LION_TEST_KILLED_FOLDER";
const RANKS: &str = "LION_TEST_KILLED_RANKS";
/// How often it kills: 40 times if not set.
const KILLS: &str = "LION_TEST_KILLS";

fn optimizer() -> Lion {
    Lion::builder().learning_rate(0.01).weight_decay(0.1).global_clipnorm(1.0).build().expect("valid")
}

fn gradient(call: u64, leaf: usize, variable: usize) -> Vec<f32> {
    let mut rng = Rng::with_seed(call * 100 + leaf as u64 * 2 + variable as u64);
    (0..LENGTHS[variable]).map(|_| rng.f32() - 0.5).collect()
}

fn sharded(communicator: ThreadCommunicator) -> Sharded<ThreadCommunicator> {
    let variables =
        [("a", LENGTHS[0]), ("b", LENGTHS[1])].map(|(name, len)| Variable::new(name, &[len], Dtype::F32));
    Sharded::new(communicator, optimizer(), &variables, Settings::new(LEAVES)).expect("an optimizer")
}

fn without_gradients<'a>(ids: &[VariableId], parameters: &'a mut [Vec<f32>; 2]) -> [Update<'a>; 2] {
    let [a, b] = parameters;
    [Update::without_gradient(ids[0], &mut a[..]), Update::without_gradient(ids[1], &mut b[..])]
}

/// What is killed: goes on from the checkpoint if there is one, and saves after each call.
#[test]
#[ignore = "run by killed_while_saving, which ends it"]
fn trains_and_saves() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let index = PathBuf::from(folder).join("run.json");
    let ranks = std::env::var(RANKS).expect("the number of ranks").parse().expect("a number");
    on_ranks(ranks, |communicator| {
        let mut sharded = sharded(communicator);
        let ids = sharded.ids().to_vec();
        let mut parameters = LENGTHS.map(|len| vec![1.0_f32; len]);
        if index.exists() {
            sharded.restore(&index, &mut without_gradients(&ids, &mut parameters)).expect("restored");
        }
        let each = LEAVES / ranks;
        let own = sharded.communicator().rank() * each..(sharded.communicator().rank() + 1) * each;
        for call in sharded.optimizer().iterations().. {
            let gradients = [0, 1]
                .map(|variable| own.clone().map(|leaf| gradient(call, leaf, variable)).collect::<Vec<_>>());
            let leaves = gradients.each_ref().map(|leaves| leaves.iter().map(Into::into).collect::<Vec<_>>());
            let [a, b] = &mut parameters;
            let mut updates =
                [Update::new(ids[0], &mut a[..], &leaves[0]), Update::new(ids[1], &mut b[..], &leaves[1])];
            sharded.apply(&mut updates).expect("applied");
            sharded.save(&index, &mut updates).expect("saved");
        }
    });
}

/// One process's training, which goes as far as the checkpoint has come.
struct Alone {
    optimizer: Lion,
    ids: Vec<VariableId>,
    parameters: [Vec<f32>; 2],
}

impl Alone {
    fn new() -> Self {
        let mut optimizer = optimizer();
        let register =
            |(index, &len): (usize, &usize)| optimizer.register(["a", "b"][index], &[len], Dtype::F32);
        let ids = LENGTHS.iter().enumerate().map(register).collect::<Result<_, _>>().expect("registered");
        Alone { optimizer, ids, parameters: LENGTHS.map(|len| vec![1.0; len]) }
    }

    fn advance_to(&mut self, iterations: u64) {
        for call in self.optimizer.iterations()..iterations {
            let means = [0, 1].map(|variable| {
                let leaves: Vec<_> = (0..LEAVES).map(|leaf| gradient(call, leaf, variable)).collect();
                let leaves: Vec<&[f32]> = leaves.iter().map(Vec::as_slice).collect();
                let mut mean = vec![0.0_f32; LENGTHS[variable]];
                reference::sum(&leaves, true, &mut mean);
                mean
            });
            let [a, b] = &mut self.parameters;
            let updates = &mut [
                lion::Update::new(self.ids[0], &mut a[..], &means[0]),
                lion::Update::new(self.ids[1], &mut b[..], &means[1]),
            ];
            self.optimizer.apply(updates).expect("applied");
        }
    }

    /// Fails unless the checkpoint has this state.
    fn must_be_in(&self, index: &Path) {
        on_ranks(1, |communicator| {
            let mut sharded = sharded(communicator);
            let ids = sharded.ids().to_vec();
            let mut parameters = LENGTHS.map(|len| vec![0.0_f32; len]);
            sharded.restore(index, &mut without_gradients(&ids, &mut parameters)).expect("restored");
            assert!(parameters == self.parameters, "after {} calls", self.optimizer.iterations());
            for (own, id) in ids.iter().zip(&self.ids) {
                let of = |optimizer: &Lion, id| optimizer.momentum(id).expect("it has one").to_f32();
                assert!(of(sharded.optimizer(), *own) == of(&self.optimizer, *id));
            }
            assert_eq!(sharded.optimizer().iterations(), self.optimizer.iterations());
        });
    }
}

#[test]
fn killed_while_saving() {
    let kills = std::env::var(KILLS).map_or(40, |kills| kills.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    let index = folder.path().join("run.json");
    let mut rng = Rng::new();
    let (mut alone, mut generations) = (Alone::new(), 0);
    // In microseconds; longer where runs do not come to a new checkpoint in it.
    let mut longest = 120_000;
    for kill in 0..kills {
        let ranks = [2, 4, 3][kill % 3];
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "trains_and_saves", "--ignored", "--test-threads", "1"])
            .env(FOLDER, folder.path())
            .env(RANKS, ranks.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        sleep(Duration::from_micros(rng.u64(20_000..longest)));
        assert!(child.try_wait().expect("a status").is_none(), "it trains until it is killed");
        child.kill().expect("killed");
        child.wait().expect("it has ended");
        if !index.exists() {
            assert_eq!(generations, 0, "the index is gone");
            longest *= 2;
            continue;
        }
        let found = Index::read(&index).expect("a whole index");
        let before = alone.optimizer.iterations();
        assert!(found.iterations >= before, "it went back to {}", found.iterations);
        match found.iterations > before {
            true => generations += 1,
            false => longest += longest / 4,
        }
        alone.advance_to(found.iterations);
        alone.must_be_in(&index);
    }
    assert!(generations > kills / 4, "only {generations} of {kills} runs came to a new checkpoint");
    // What killed savers have left goes with the next save: four ranks have five files.
    on_ranks(4, |communicator| {
        let mut sharded = sharded(communicator);
        let ids = sharded.ids().to_vec();
        let mut parameters = LENGTHS.map(|len| vec![0.0_f32; len]);
        let mut updates = without_gradients(&ids, &mut parameters);
        sharded.restore(&index, &mut updates).expect("restored");
        sharded.save(&index, &mut updates).expect("saved");
    });
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").filter_map(Result::ok).collect();
    assert_eq!(left.len(), 5, "{left:?}");
}
