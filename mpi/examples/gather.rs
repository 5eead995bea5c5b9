//! Compares a step whose parameters are gathered as they are stored with one that gathers directions: the time of each. Both
//! must end with the same bits.
//!
//! ```text
//! cargo build --release --example gather
//! mpirun -n 2 target/release/examples/gather 4194304 20
//! ```
//!
//! Arguments: the elements of the model, and the number of rounds. Each round times both. Prints a line for f32 and a line
//! for bf16 parameters. The gradients are averaged already, so a call is the step and the gather.

use std::error::Error;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lion::{Dtype, Lion, TensorBuf};
use lion_distributed::{Communicator, Gather, Settings, Sharded, Update, Variable};
use lion_mpi::MpiCommunicator;
use mpi::topology::SimpleCommunicator;
use mpi::traits::CommunicatorCollectives as _;

fn main() -> ExitCode {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|it| it.parse().ok()).collect();
    lion_mpi::run(|communicator| {
        let [len, calls] = numbers[..] else { return Err("two numbers are wanted: ELEMENTS CALLS".into()) };
        for dtype in [Dtype::F32, Dtype::BF16] {
            let world = SimpleCommunicator::world();
            let stored = Run::new(MpiCommunicator::new(&world), dtype, len, Gather::Parameters)?;
            // The first call compares all parameters, which is not part of the gather.
            let gather = Gather::Directions { check_every: u64::MAX };
            let directions = Run::new(MpiCommunicator::new(&world), dtype, len, gather)?;
            let (mut runs, mut times) = ([stored, directions], [Vec::new(), Vec::new()]);
            for call in 0..=calls {
                for (run, times) in runs.iter_mut().zip(&mut times) {
                    world.barrier();
                    let start = Instant::now();
                    run.call()?;
                    world.barrier();
                    if call > 0 {
                        times.push(start.elapsed());
                    }
                    black_box(&run.parameter);
                }
            }
            if runs[0].parameter.to_ref().as_bytes(0) != runs[1].parameter.to_ref().as_bytes(0) {
                return Err("the parameters differ".into());
            }
            if communicator.rank() == 0 {
                let median = |times: &mut Vec<Duration>| {
                    times.sort_unstable();
                    times[times.len() / 2].as_secs_f64() * 1e3
                };
                let [stored, directions] = times.each_mut().map(median);
                println!(
                    "{} ranks, {len} elements in {dtype}: median of {calls}: as stored {stored:.3} ms, as directions \
                     {directions:.3} ms, {:.2} of it",
                    communicator.size(),
                    directions / stored
                );
            }
        }
        Ok(())
    })
}

/// An optimizer of one variable, with its tensors.
struct Run {
    sharded: Sharded<MpiCommunicator>,
    parameter: TensorBuf,
    gradient: TensorBuf,
}

impl Run {
    fn new(
        communicator: MpiCommunicator,
        dtype: Dtype,
        len: usize,
        gather: Gather,
    ) -> Result<Self, Box<dyn Error>> {
        let settings = Settings::new(communicator.size()).gather(gather);
        let optimizer = Lion::builder().learning_rate(1e-3).weight_decay(0.1).build()?;
        let sharded =
            Sharded::new(communicator, optimizer, &[Variable::new("weights", &[len], dtype)], settings)?;
        let mut gradient = TensorBuf::zeroed(Dtype::BF16, len)?;
        let values: Vec<f32> = (0..len).map(|index| (index % 7) as f32 - 3.0).collect();
        gradient.to_mut().write_f32(0, &values)?;
        Ok(Run { sharded, parameter: TensorBuf::zeroed(dtype, len)?, gradient })
    }

    fn call(&mut self) -> Result<(), lion_distributed::Error> {
        let id = self.sharded.ids()[0];
        let update = Update::averaged(id, self.parameter.to_mut(), self.gradient.to_ref());
        self.sharded.apply(&mut [update]).map(|_| ())
    }
}
