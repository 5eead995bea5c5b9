//! The sharded Lion optimizer of [`lion_distributed`] on MPI.
//!
//! [`run`] is the frame of a program: it starts MPI, gives the program a [`MpiCommunicator`], and makes sure that no rank
//! waits forever for a rank that has failed.
//!
//! ```no_run
//! use lion::{Dtype, Lion};
//! use lion_distributed::{Communicator, Settings, Sharded, Update, Variable};
//!
//! fn main() -> std::process::ExitCode {
//!     lion_mpi::run(|communicator| {
//!         let leaves = 2 * communicator.size();
//!         let optimizer = Lion::builder().learning_rate(1e-3).build()?;
//!         let variables = [Variable::new("weights", &[64, 128], Dtype::F32)];
//!         let mut sharded = Sharded::new(communicator, optimizer, &variables, Settings::new(leaves))?;
//!         let (weights, mut parameter) = (sharded.ids()[0], vec![0.1_f32; 64 * 128]);
//!         for _ in 0..100 {
//!             // The gradients of this rank's two micro-batches.
//!             let gradients = [vec![0.5_f32; 64 * 128], vec![0.25_f32; 64 * 128]];
//!             let gradients = gradients.each_ref().map(Into::into);
//!             sharded.apply(&mut [Update::new(weights, &mut parameter, &gradients)])?;
//!         }
//!         Ok(())
//!     })
//! }
//! ```
//!
//! # Threads
//! MPI is called from one thread. Open MPI's `mpirun` binds each rank to one core if there are one or two ranks, and to a
//! part of the machine otherwise. Rayon then has as many threads as the binding leaves. `--bind-to none` with
//! `RAYON_NUM_THREADS` gives it more.

mod communicator;
mod frame;

pub use communicator::MpiCommunicator;
pub use frame::run;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
