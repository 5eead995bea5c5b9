//! Trains the classifier of handwritten digits of `lion`'s example on the ranks that `mpirun` starts. A step has four
//! micro-batches, shared by 1, 2 or 4 ranks. The digest of the weights is the same for each number of ranks.
//!
//! ```text
//! cargo build --release --example digits
//! mpirun -n 1 target/release/examples/digits
//! mpirun -n 4 target/release/examples/digits
//! ```
//!
//! The argument is the number of epochs; the default is 30.

#[path = "../../lion/examples/digits/data.rs"]
mod data;
#[path = "../../lion/examples/digits/network.rs"]
mod network;
#[path = "../../lion/examples/digits/random.rs"]
mod random;

use std::error::Error;
use std::process::ExitCode;

use lion::{Dtype, Lion, TensorRef};
use lion_distributed::{Communicator, Settings, Sharded, Update, Variable};
use lion_mpi::MpiCommunicator;

use data::{Digit, Digits};
use network::{VARIABLES, backward, classify, initial};
use random::Random;

/// Micro-batches of a step.
const LEAVES: usize = 4;
const BATCH: usize = 32;
const SEED: u64 = 3;

fn main() -> ExitCode {
    let epochs = std::env::args().nth(1).map_or(Ok(30), |epochs| epochs.parse());
    lion_mpi::run(|communicator| {
        let line = train(communicator, epochs?)?;
        if communicator.rank() == 0 {
            println!("{line}");
        }
        Ok(())
    })
}

fn train(communicator: &mut MpiCommunicator, epochs: usize) -> Result<String, Box<dyn Error>> {
    let each = LEAVES / communicator.size();
    let own = communicator.rank() * each..(communicator.rank() + 1) * each;
    let optimizer = Lion::builder().learning_rate(0.001).weight_decay(2.0).build()?;
    let variables = VARIABLES.map(|(name, shape)| Variable::new(name, shape, Dtype::F32));
    let mut sharded = Sharded::new(communicator, optimizer, &variables, Settings::new(LEAVES))?;
    let ids = sharded.ids().to_vec();

    // Every rank goes through the same batches, and computes the gradients of its own micro-batches.
    let digits = Digits::load()?;
    let mut random = Random::seeded(SEED);
    let mut parameters = initial(&mut random);
    let mut order: Vec<&Digit> = digits.training.iter().collect();
    for _ in 0..epochs {
        random.shuffle(&mut order);
        for batch in order.chunks(BATCH) {
            let micro_batches = batch.chunks(batch.len().div_ceil(LEAVES)).skip(own.start).take(each);
            let gradients: Vec<_> = micro_batches.map(|images| backward(&parameters, images).1).collect();
            let leaves: Vec<Vec<TensorRef<'_>>> = (0..ids.len())
                .map(|variable| gradients.iter().map(|of| (&of[variable]).into()).collect())
                .collect();
            let mut updates: Vec<_> = ids
                .iter()
                .zip(&mut parameters)
                .zip(&leaves)
                .map(|((&id, parameter), leaves)| Update::new(id, parameter, leaves))
                .collect();
            sharded.apply(&mut updates)?;
        }
    }
    let right = digits.held_out.iter().filter(|digit| classify(&parameters, digit) == digit.label).count();
    let bits = parameters.iter().flatten().flat_map(|value| value.to_bits().to_le_bytes());
    let digest = bits
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let accuracy = 100.0 * right as f64 / digits.held_out.len() as f64;
    Ok(format!("weights {digest:016x}, {accuracy:.2} % of the held-out digits right after {epochs} epochs"))
}
