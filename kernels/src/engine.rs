//! The engine: runs one pass over a range of a task, on one thread.
//!
//! Two implementations give the same bits:
//!
//! - *Fused* kernels keep an element in registers from load to store. They are compiled for a short table of common
//!   format combinations ([`step`]). With 8-bit momentum they work block by block ([`coded`]).
//! - *Tiles* serve all other combinations. They decode 512 elements into f32 in the L1 cache, apply the fused kernel
//!   for f32, and encode the results ([`tiles`]). An f32 tensor is never copied into a tile.
//!
//! The caller ([`crate::task`]) guarantees three facts: the tensors have the task's length, all roles that the pass
//! requires are given, and no other thread accesses the same range.

pub(crate) mod bandwidth;
pub(crate) mod chunk;
mod coded;
mod direction;
mod elementwise;
mod fused;
pub(crate) mod lanes;
mod statistics;
mod step;
pub(crate) mod sum;
#[cfg(test)]
mod tests;
mod tiles;

use core::ops::Range;

use crate::dispatch::Backend;
use crate::error::Error;
use crate::format::Dtype;
use crate::pass::{Pass, PassTensors};
use crate::role::Role;
use crate::statistics::STATISTICS_BLOCK;

/// The number of elements in a tile. Three f32 tiles take 6 KiB, a fifth of the smallest L1 caches. Tiles of 256
/// elements were up to 15 % slower in cache; tiles of 1,024 were up to 1.55 times slower with two-stream formats.
pub(crate) const TILE: usize = 512;

/// A range of a task's tensors.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub(crate) tensors: PassTensors,
    pub(crate) len: usize,
    /// The index of the view's first element in the variable.
    pub(crate) first: u64,
    pub(crate) prefetch: bool,
}

impl View {
    #[inline(always)]
    pub(crate) fn dtype(&self, role: Role) -> Dtype {
        self.tensors.dtype(role)
    }

    /// Returns the address of element `start` of an f32 tensor. The base address of a missing tensor is null.
    #[inline(always)]
    pub(crate) fn f32_at(&self, role: Role, start: usize) -> *mut f32 {
        self.tensors.first(role).cast::<f32>().wrapping_add(start)
    }

    /// Returns the role of the tensor from which the parameter is read.
    #[inline(always)]
    pub(crate) fn source(&self) -> Role {
        if self.tensors.given().has(Role::Source) { Role::Source } else { Role::Parameter }
    }
}

/// Runs a pass over a range of its tensors. The range begins at a multiple of [`STATISTICS_BLOCK`].
///
/// # Errors
/// [`Error::UnavailableBackend`]. Nothing is written then.
///
/// # Safety
/// All tensors that the pass requires are given. The range lies within them, and nothing else reads or writes it.
#[inline(always)]
pub(crate) unsafe fn run(
    backend: Backend,
    prefetch: bool,
    pass: &Pass,
    tensors: &PassTensors,
    first: u64,
    range: Range<usize>,
) -> Result<(), Error> {
    let tensors = match range.start {
        0 => *tensors,
        start => tensors.from(start),
    };
    let first = first.wrapping_add(range.start as u64);
    let view = View { tensors, len: range.end - range.start, first, prefetch };
    match pass {
        Pass::Step(step) => step::run(backend, step, &view),
        Pass::Accumulate(transform) => backend.run(elementwise::Accumulate { transform, view: &view }),
        Pass::Ema(ema) => backend.run(elementwise::UpdateEma { ema, view: &view }),
        Pass::Convert => backend.run(elementwise::Convert { view: &view }),
        Pass::Statistics(transform, blocks) => {
            let blocks = blocks.wrapping_add(range.start / STATISTICS_BLOCK);
            backend.run(statistics::Blocks { transform, view: &view, blocks })
        }
        Pass::Bandwidth => backend.run(bandwidth::Bandwidth { view: &view }),
    }
}
