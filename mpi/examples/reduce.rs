//! Compares the reduction of `lion-distributed` with MPI's own: how many elements of `MPI_Reduce_scatter` differ from the
//! sum in a fixed order, and the time of each for the same bytes.
//!
//! ```text
//! cargo build --release --example reduce
//! mpirun -n 4 target/release/examples/reduce 1048576 20
//! mpirun -n 3 target/release/examples/reduce leaves
//! ```
//!
//! Arguments: the elements of the sum that each rank owns, and the number of rounds. Each round times both. Prints one
//! line. With the word `leaves` it prints a digest of MPI's sum of twelve gradients, which the ranks share.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lion::{Backend, TensorRef};
use lion_distributed::Communicator;
use lion_kernels::SumTree;
use lion_mpi::MpiCommunicator;
use mpi::collective::SystemOperation;
use mpi::topology::SimpleCommunicator;
use mpi::traits::CommunicatorCollectives as _;

fn main() -> ExitCode {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|it| it.parse().ok()).collect();
    let leaves = std::env::args().nth(1).as_deref() == Some("leaves");
    lion_mpi::run(|communicator| {
        if leaves {
            print_sum_of_leaves(communicator);
            return Ok(());
        }
        let [len, rounds] = numbers[..] else { return Err("two numbers are wanted: ELEMENTS ROUNDS".into()) };
        let (rank, size) = (communicator.rank(), communicator.size());
        let world = SimpleCommunicator::world();
        // This rank's gradients for the shards of all ranks.
        let own: Vec<f32> = (0..size).flat_map(|owner| values(rank, owner, len)).collect();
        let mut by_mpi = vec![0.0_f32; len];
        let mut fixed = Fixed::new(size, len)?;

        let (mut times_of_mpi, mut times) = (Vec::new(), Vec::new());
        for _ in 0..rounds.max(1) {
            world.barrier();
            let start = Instant::now();
            world.reduce_scatter_block_into(&own[..], &mut by_mpi[..], SystemOperation::sum());
            times_of_mpi.push(start.elapsed());
            black_box(&by_mpi);
            world.barrier();
            let start = Instant::now();
            fixed.run(communicator, &own)?;
            times.push(start.elapsed());
            black_box(&fixed.sum);
        }
        // Every rank knows what the others had.
        let leaves: Vec<Vec<f32>> = (0..size).map(|leaf| values(leaf, rank, len)).collect();
        let sources: Vec<TensorRef<'_>> = leaves.iter().map(Into::into).collect();
        let mut expected = vec![0.0_f32; len];
        SumTree::new(size)?.sum(Backend::best(), &sources, &mut expected)?;
        let differ = |found: &[f32]| {
            let pairs = found.iter().zip(&expected);
            pairs.filter(|(found, expected)| found.to_bits() != expected.to_bits()).count() as u64
        };
        let (mut of_mpi, mut of_fixed) = (0, 0);
        world.all_reduce_into(&differ(&by_mpi), &mut of_mpi, SystemOperation::sum());
        world.all_reduce_into(&differ(&fixed.sum), &mut of_fixed, SystemOperation::sum());
        if rank == 0 {
            let (all, median) = ((size * len) as f64, |times: &mut Vec<Duration>| {
                times.sort_unstable();
                times[times.len() / 2].as_secs_f64() * 1e3
            });
            let (mpi, own) = (median(&mut times_of_mpi), median(&mut times));
            println!(
                "{size} ranks, {len} elements each: MPI differs in {of_mpi} ({:.1} %), the tree in {of_fixed}; \
                 median of {rounds}: MPI {mpi:.3} ms, the tree {own:.3} ms, {:.2} of it",
                of_mpi as f64 / all * 100.0,
                own / mpi
            );
        }
        Ok(())
    })
}

/// Prints a digest of MPI's sum of twelve gradients. Each rank adds its own first.
fn print_sum_of_leaves(communicator: &MpiCommunicator) {
    const LEN: usize = 12_000;
    let (rank, size, world) = (communicator.rank(), communicator.size(), SimpleCommunicator::world());
    let mut own = vec![0.0_f32; LEN];
    for leaf in rank * 12 / size..(rank + 1) * 12 / size {
        own.iter_mut().zip(values(leaf, 0, LEN)).for_each(|(sum, value)| *sum += value);
    }
    let (mut part, mut sum) = (vec![0.0_f32; LEN / size], vec![0.0_f32; LEN / size * size]);
    world.reduce_scatter_block_into(&own[..part.len() * size], &mut part[..], SystemOperation::sum());
    world.all_gather_into(&part[..], &mut sum[..]);
    let digest = sum
        .iter()
        .flat_map(|value| value.to_bits().to_le_bytes())
        .fold(0_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    if rank == 0 {
        println!("{digest:016x}");
    }
}

/// The optimizer's reduction: all-to-all, and the sum on the owner.
struct Fixed {
    tree: SumTree,
    received: Vec<f32>,
    sum: Vec<f32>,
}

impl Fixed {
    fn new(size: usize, len: usize) -> Result<Self, Box<dyn std::error::Error>> {
        Ok(Fixed { tree: SumTree::new(size)?, received: vec![0.0; size * len], sum: vec![0.0; len] })
    }

    fn run(
        &mut self,
        communicator: &mut MpiCommunicator,
        own: &[f32],
    ) -> Result<(), Box<dyn std::error::Error>> {
        let counts = vec![self.sum.len() * 4; communicator.size()];
        let bytes = TensorRef::from(own).as_bytes(0).unwrap_or_default();
        let mut received = lion::TensorMut::from(&mut self.received);
        communicator.all_to_all(bytes, &counts, received.as_bytes_mut(0).unwrap_or_default(), &counts)?;
        let sources: Vec<TensorRef<'_>> =
            self.received.chunks(self.sum.len().max(1)).map(Into::into).collect();
        Ok(self.tree.sum(Backend::best(), &sources, &mut self.sum)?)
    }
}

/// The gradients that a rank has for the shard of an owner.
fn values(rank: usize, owner: usize, len: usize) -> Vec<f32> {
    let mut state = (rank * 1000 + owner) as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = (state >> 40) as f32 / 16_777_216.0 - 0.5;
        // With bits below those of the sum, so that its order shows.
        value * value * value
    };
    (0..len).map(|_| next()).collect()
}
