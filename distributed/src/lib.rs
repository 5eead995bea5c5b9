//! The Lion optimizer sharded over ranks (ZeRO stage 1): each rank keeps and steps its part of the state. The bits are those
//! of one process, for any number of ranks and any transport.
//!
//! Every rank has all parameters, and the gradients of its own micro-batches. [`Sharded::apply`] adds the gradients of all
//! ranks in a fixed order and averages them. Then each rank moves the elements that it owns, and all ranks get all
//! parameters back ([`Gather`] says how). A [`Communicator`] carries the bytes: threads of one process
//! ([`ThreadCommunicator`]), MPI (the package `lion-mpi`), or the caller's own transport.
//!
//! ```
//! use lion::{Dtype, Lion, Outcome};
//! use lion_distributed::{Settings, Sharded, ThreadCommunicator, Update, Variable};
//!
//! // Two ranks of one micro-batch each.
//! let ranks = ThreadCommunicator::group(2).into_iter().map(|communicator| {
//!     std::thread::spawn(move || {
//!         let gradient = [[1.0_f32, -1.0, 2.0], [1.0, -1.0, -2.0]][lion_distributed::Communicator::rank(&communicator)];
//!         let optimizer = Lion::builder().learning_rate(0.5).build()?;
//!         let variables = [Variable::new("a", &[2], Dtype::F32), Variable::new("b", &[], Dtype::F32)];
//!         let mut sharded = Sharded::new(communicator, optimizer, &variables, Settings::new(2))?;
//!         let (a, b) = (sharded.ids()[0], sharded.ids()[1]);
//!
//!         let (mut weights, mut bias) = ([1.0_f32, 1.0], [1.0_f32]);
//!         let (of_weights, of_bias) = gradient.split_at(2);
//!         let metrics = sharded.apply(&mut [
//!             Update::new(a, &mut weights, &[of_weights.into()]),
//!             Update::new(b, &mut bias, &[of_bias.into()]),
//!         ])?;
//!         assert_eq!(metrics.outcome, Outcome::Updated);
//!         Ok::<_, lion_distributed::Error>((weights, bias))
//!     })
//! });
//! let ranks: Vec<_> = ranks.collect();
//! for rank in ranks {
//!     assert_eq!(rank.join().expect("no panic")?, ([0.5, 1.5], [1.0]));
//! }
//! # Ok::<(), lion_distributed::Error>(())
//! ```
//!
//! # The order of the sum
//! The gradients come from a fixed number of leaves, the micro-batches of all ranks ([`Settings::new`]). Rank `r` of `n` has
//! the leaves from `r · leaves / n` on. They are added in f32 along one binary tree ([`lion_kernels::SumTree`]) and divided
//! by their number. A rank sums the subtrees that its leaves form, and the owner of an element adds the sums of all ranks.
//! A rank whose number of leaves is a power of two sends one sum, another rank a few. So one process with all leaves, and
//! any number of ranks that divides them, give the same bits.
//!
//! # When a rank fails
//! An error that is found before anything is written is an error on all ranks. It names the rank, and nothing has changed.
//! From the first write on, an error ends the job by [`Communicator::abort`], as the ranks might no longer have the same
//! state. A rank that dies ends the job. The others cannot go on without it.
//!
//! # Left out
//! Sign voting and 1-bit momentum are other algorithms. Sharded gradients and parameters (ZeRO 2 and 3), a change of the
//! number of ranks without a restart, and collectives that know which ranks share a machine are not built.

mod agreement;
pub mod checkpoint;
mod codes;
mod communicator;
mod digest;
mod error;
mod exchange;
mod layout;
mod reduction;
mod settings;
mod sharded;
mod threads;
mod update;

pub use communicator::{CommunicationError, Communicator};
pub use error::Error;
pub use layout::{Layout, Segment};
pub use settings::{Gather, Settings, Variable, Wire};
pub use sharded::Sharded;
pub use threads::ThreadCommunicator;
pub use update::Update;

/// Ends a run together. Every rank must call it. If others are in another call, all ranks get an error and none waits
/// forever.
///
/// # Errors
/// [`Error::Disagreement`] if another rank is in a call; [`Error::Communication`].
pub fn end(communicator: &mut impl Communicator) -> Result<(), Error> {
    agreement::agree(communicator, "the end of the run", Ok(((), Vec::new())))
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../docs/ranks.md")]
struct Ranks;
