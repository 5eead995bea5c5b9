//! A training on any number of ranks that `mpirun` starts. The tests use it and make it fail.
//!
//! ```text
//! cargo build --example ranks
//! mpirun -n 4 target/debug/examples/ranks train 5
//! ```
//!
//! `train CALLS [INDEX]` prints the digest of parameters and momentum after that many calls: the same for 1, 2, 3, 4, 6 and
//! 12 ranks. With an index it restores that checkpoint if it exists, and saves at the end. `save INDEX` saves after each
//! call until it is killed. The other words name a failure of rank 1.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lion::{Dtype, Lion, TensorRef};
use lion_distributed::{Communicator, Settings, Sharded, Update, Variable};
use lion_mpi::MpiCommunicator;

const LEAVES: usize = 12;
const LENGTHS: [usize; 3] = [300_000, 7, 50_000];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    lion_mpi::run(|communicator| {
        let what = arguments.first().map_or("", String::as_str);
        let index = arguments.get(if what == "save" { 1 } else { 2 }).map(PathBuf::from);
        let calls = arguments.get(1).and_then(|calls| calls.parse().ok());
        let rank = communicator.rank();
        let odd = rank == 1;
        let mut training = Training::new(communicator, |what_differs| odd && what == what_differs)?;
        if let Some(index) = index.as_deref().filter(|index| index.exists()) {
            training.restore(index)?;
        }
        match what {
            "train" => {
                for _ in 0..calls.ok_or("train CALLS [INDEX]")? {
                    training.call(false)?;
                }
                if let Some(index) = &index {
                    training.save(index)?;
                }
                let digest = training.digest()?;
                if rank == 0 {
                    println!("{digest}");
                }
            }
            "save" => loop {
                training.call(false)?;
                training.save(index.as_deref().ok_or("save INDEX")?)?;
            },
            "panic" => loop {
                assert!(!odd || training.iterations() < 3, "rank 1 panics");
                training.call(false)?;
            },
            "error" => loop {
                if odd && training.iterations() == 3 {
                    return Err("rank 1 has an error".into());
                }
                training.call(false)?;
            },
            "return" => loop {
                if odd && training.iterations() == 3 {
                    return Ok(());
                }
                training.call(false)?;
            },
            "exit" => loop {
                if odd && training.iterations() == 3 {
                    std::process::exit(0);
                }
                training.call(false)?;
            },
            "abort" => loop {
                if odd && training.iterations() == 3 {
                    std::process::abort();
                }
                training.call(false)?;
            },
            "kill" => loop {
                training.call(false)?;
            },
            "gradient" => training.call(odd)?,
            // The failures that are left are errors of the start.
            _ => return Err(format!("{what:?} does not exist, or went right").into()),
        }
        Ok(())
    })
}

struct Training<'a> {
    sharded: Sharded<&'a mut MpiCommunicator>,
    parameters: Vec<Vec<f32>>,
}

impl<'a> Training<'a> {
    fn new(
        communicator: &'a mut MpiCommunicator,
        differs: impl Fn(&str) -> bool,
    ) -> Result<Self, Box<dyn Error>> {
        let rate = if differs("options") { 0.02 } else { 0.01 };
        let optimizer = Lion::builder().learning_rate(rate).weight_decay(0.1).global_clipnorm(1.0).build()?;
        let names = if differs("variables") { ["a", "b", "d"] } else { ["a", "b", "c"] };
        let dtype = if differs("dtype") { Dtype::BF16 } else { Dtype::F32 };
        let variables: Vec<_> =
            names.iter().zip(LENGTHS).map(|(name, len)| Variable::new(name, &[len], dtype)).collect();
        let settings = Settings::new(if differs("leaves") { 2 * LEAVES } else { LEAVES });
        let sharded = Sharded::new(communicator, optimizer, &variables, settings.bucket_bytes(1 << 20))?;
        Ok(Training { sharded, parameters: LENGTHS.iter().map(|&len| vec![1.0; len]).collect() })
    }

    fn iterations(&self) -> u64 {
        self.sharded.optimizer().iterations()
    }

    fn call(&mut self, wrong: bool) -> Result<(), Box<dyn Error>> {
        let call = self.iterations();
        let each = LEAVES / self.sharded.communicator().size();
        let first = self.sharded.communicator().rank() * each;
        let gradients: Vec<Vec<Vec<f32>>> = LENGTHS
            .iter()
            .enumerate()
            .map(|(variable, &len)| {
                let len = if wrong { len - 1 } else { len };
                (first..first + each).map(|leaf| gradient(call, leaf, variable, len)).collect()
            })
            .collect();
        let leaves: Vec<Vec<TensorRef<'_>>> =
            gradients.iter().map(|leaves| leaves.iter().map(Into::into).collect()).collect();
        let ids = self.sharded.ids().to_vec();
        let mut updates: Vec<_> = ids
            .into_iter()
            .zip(&mut self.parameters)
            .zip(&leaves)
            .map(|((id, parameter), leaves)| Update::new(id, parameter, leaves))
            .collect();
        self.sharded.apply(&mut updates)?;
        Ok(())
    }

    fn save(&mut self, index: &Path) -> Result<(), Box<dyn Error>> {
        let ids = self.sharded.ids().to_vec();
        let mut updates: Vec<_> = ids
            .into_iter()
            .zip(&mut self.parameters)
            .map(|(id, it)| Update::without_gradient(id, it))
            .collect();
        Ok(self.sharded.save(index, &mut updates)?)
    }

    fn restore(&mut self, index: &Path) -> Result<(), Box<dyn Error>> {
        let ids = self.sharded.ids().to_vec();
        let mut updates: Vec<_> = ids
            .into_iter()
            .zip(&mut self.parameters)
            .map(|(id, it)| Update::without_gradient(id, it))
            .collect();
        Ok(self.sharded.restore(index, &mut updates)?)
    }

    /// Of all parameters and all momentum: a sum of hashes of the elements, so that each rank can add those that it owns.
    fn digest(&mut self) -> Result<String, Box<dyn Error>> {
        let (mut own, mut parameters) = (0_u64, 0_u64);
        for (number, variable) in self.sharded.optimizer().variables().enumerate() {
            let momentum = variable.momentum.and_then(|it| it.as_slice::<f32>()).unwrap_or_default();
            let hash = |place: usize, value: &f32| {
                mix((number << 40 | place) as u64 ^ u64::from(value.to_bits()) << 20)
            };
            let hashes = momentum.iter().enumerate().map(|(i, value)| hash(variable.held.start + i, value));
            own = hashes.fold(own, u64::wrapping_add);
            let hashes = self.parameters[number].iter().enumerate().map(|(i, value)| hash(i, value));
            parameters = hashes.fold(parameters, u64::wrapping_add);
        }
        let communicator = self.sharded.communicator_mut();
        let mut all = vec![0; 8 * communicator.size()];
        let counts = vec![8; communicator.size()];
        communicator.all_gather(&own.to_ne_bytes(), &mut all, &counts)?;
        let momentum =
            all.as_chunks().0.iter().map(|bytes| u64::from_ne_bytes(*bytes)).fold(0, u64::wrapping_add);
        // Every rank must have the same parameters.
        communicator.all_gather(&parameters.to_ne_bytes(), &mut all, &counts)?;
        if all.as_chunks().0.iter().any(|bytes| u64::from_ne_bytes(*bytes) != parameters) {
            return Err("the ranks have different parameters".into());
        }
        Ok(format!("{parameters:016x} {momentum:016x} after {} calls", self.iterations()))
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Some gradient, by a generator that gives the same numbers everywhere.
fn gradient(call: u64, leaf: usize, variable: usize, len: usize) -> Vec<f32> {
    let mut state = call * 1000 + leaf as u64 * 10 + variable as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 16_777_216.0 - 0.5
    };
    (0..len).map(|_| next()).collect()
}
