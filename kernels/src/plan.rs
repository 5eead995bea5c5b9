//! Execution plans: backend, thread count, chunk size, parallel threshold, prefetch.
//!
//! A plan affects speed only, never results. Out-of-range values are clamped.

use core::num::NonZeroUsize;

use crate::dispatch::{Backend, prefetch_is_profitable};
use crate::statistics::STATISTICS_BLOCK;

/// A backend, a thread count, and how to split the work.
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
    /// The maximum number of threads. `None`: all threads of the pool, up to [`MAX_THREADS`](crate::MAX_THREADS).
    pub threads: Option<NonZeroUsize>,
    /// The number of elements per chunk, a multiple of [`STATISTICS_BLOCK`]. Without a threshold, chunks are larger if a
    /// thread would take more than 32, and smaller if it would take fewer than 8.
    pub chunk_elements: usize,
    /// The number of bytes of tensors below which a run stays on the calling thread. `None`: [`run`](crate::run())
    /// decides from the time of the first chunk and the start latency of the workers.
    pub parallel_threshold: Option<usize>,
    /// Whether steps use software prefetch.
    pub prefetch: Prefetch,
}

/// The use of software prefetch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prefetch {
    /// On Intel processors, in runs with 512 KiB of tensors or more.
    #[default]
    Auto,
    /// In every step, if the architecture supports it. Other passes never prefetch.
    On,
    /// Never.
    Off,
}

/// The size of tensors from which some are assumed to be outside the L2 cache: other work uses the cache between steps.
const L2_BYTES: usize = 512 << 10;

impl Prefetch {
    /// Returns whether a run over tensors of this many bytes prefetches.
    pub(crate) fn enabled_for(self, bytes: usize) -> bool {
        match self {
            Prefetch::Auto => bytes >= L2_BYTES && prefetch_is_profitable(),
            Prefetch::On => true,
            Prefetch::Off => false,
        }
    }
}

impl Plan {
    /// Returns the default plan: all threads of the pool if the run is long enough, in chunks of about 32,768
    /// elements.
    ///
    /// Such a chunk is small enough that the threads finish at about the same time, and large enough that the cost of
    /// taking one is small.
    pub const fn new(backend: Backend) -> Self {
        Plan {
            backend,
            threads: None,
            chunk_elements: 8 * STATISTICS_BLOCK,
            parallel_threshold: None,
            prefetch: Prefetch::Auto,
        }
    }

    /// Sets the backend.
    #[must_use]
    pub const fn backend(self, backend: Backend) -> Self {
        Plan { backend, ..self }
    }

    /// Sets the maximum number of threads; 0 counts as 1.
    #[must_use]
    pub const fn threads(self, threads: usize) -> Self {
        let threads = match NonZeroUsize::new(threads) {
            None => NonZeroUsize::MIN,
            some => return Plan { threads: some, ..self },
        };
        Plan { threads: Some(threads), ..self }
    }

    /// Sets the chunk size, rounded down to whole blocks of [`STATISTICS_BLOCK`] elements, at least one.
    #[must_use]
    pub const fn chunk_elements(self, elements: usize) -> Self {
        let blocks = elements / STATISTICS_BLOCK;
        Plan {
            chunk_elements: if blocks == 0 { STATISTICS_BLOCK } else { blocks * STATISTICS_BLOCK },
            ..self
        }
    }

    /// Sets the number of bytes below which a run stays on the calling thread.
    #[must_use]
    pub const fn parallel_threshold(self, bytes: usize) -> Self {
        Plan { parallel_threshold: Some(bytes), ..self }
    }

    /// Sets the use of software prefetch.
    #[must_use]
    pub const fn prefetch(self, prefetch: Prefetch) -> Self {
        Plan { prefetch, ..self }
    }
}
