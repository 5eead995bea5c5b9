//! A plan: the instruction set, the number of threads, the size of the pieces that work is cut into.
//!
//! A plan affects speed only, never results. Out-of-range values are clamped.

use core::num::NonZeroUsize;

use crate::dispatch::{Backend, prefetch_is_profitable};
use crate::statistics::STATISTICS_BLOCK;

/// Which instruction set, how many threads, and how work is cut among them.
///
/// ```
/// use lion_kernels::{Backend, Plan};
///
/// let plan = Plan::new(Backend::best()).threads(2).chunk_elements(100_000);
/// assert_eq!(plan.chunk_elements, 98_304, "whole blocks of 4,096 elements");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Plan {
    /// The instruction set.
    pub backend: Backend,
    /// The most threads that share a call; `None` for as many as the thread pool has, up to [`MAX_THREADS`](crate::MAX_THREADS).
    pub threads: Option<NonZeroUsize>,
    /// Elements of a piece of work, a multiple of [`STATISTICS_BLOCK`].
    pub chunk_elements: usize,
    /// Bytes of a call's tensors below which it stays on the calling thread. `None`: [`run`](crate::run()) finds out whether
    /// other threads pay, from the time that the call's first piece takes, and the time that workers take to begin.
    pub parallel_threshold: Option<usize>,
    /// Whether to ask for memory ahead of its use.
    pub prefetch: Prefetch,
}

/// Whether a pass asks for memory ahead of its use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prefetch {
    /// Where it is known to pay: in calls with tensors of 512 KiB and more together, on Intel's cores.
    #[default]
    Auto,
    /// In every step, where the processor can; no other pass asks.
    On,
    /// In none.
    Off,
}

/// Bytes of tensors from which some are taken not to be in the second-level cache, which between two steps other work
/// has.
const L2_BYTES: usize = 512 << 10;

impl Prefetch {
    /// Whether a call with tensors of this many bytes asks ahead.
    pub(crate) fn enabled_for(self, bytes: usize) -> bool {
        match self {
            Prefetch::Auto => bytes >= L2_BYTES && prefetch_is_profitable(),
            Prefetch::On => true,
            Prefetch::Off => false,
        }
    }
}

impl Plan {
    /// The default: as many threads as the pool has, for calls that take longer than handing them over pays for, in
    /// chunks of at most 32,768 elements.
    ///
    /// The chunk is small enough that threads end at about the same time, and large enough that taking one costs nothing
    /// beside it.
    pub const fn new(backend: Backend) -> Self {
        Plan {
            backend,
            threads: None,
            chunk_elements: 8 * STATISTICS_BLOCK,
            parallel_threshold: None,
            prefetch: Prefetch::Auto,
        }
    }

    /// On this instruction set.
    #[must_use]
    pub const fn backend(self, backend: Backend) -> Self {
        Plan { backend, ..self }
    }

    /// At most this many threads; 0 is 1.
    #[must_use]
    pub const fn threads(self, threads: usize) -> Self {
        let threads = match NonZeroUsize::new(threads) {
            None => NonZeroUsize::MIN,
            some => return Plan { threads: some, ..self },
        };
        Plan { threads: Some(threads), ..self }
    }

    /// Pieces of this many elements, in whole blocks of [`STATISTICS_BLOCK`], at least one.
    #[must_use]
    pub const fn chunk_elements(self, elements: usize) -> Self {
        let blocks = elements / STATISTICS_BLOCK;
        Plan {
            chunk_elements: if blocks == 0 { STATISTICS_BLOCK } else { blocks * STATISTICS_BLOCK },
            ..self
        }
    }

    /// Calls of fewer bytes stay on the calling thread.
    #[must_use]
    pub const fn parallel_threshold(self, bytes: usize) -> Self {
        Plan { parallel_threshold: Some(bytes), ..self }
    }

    /// Asks for memory ahead of its use, or not.
    #[must_use]
    pub const fn prefetch(self, prefetch: Prefetch) -> Self {
        Plan { prefetch, ..self }
    }
}
