//! The engine: runs one pass over a range of a task, on one thread.
//!
//! There are two ways. *Fused* kernels hold an element in registers from its load to its store: they are compiled for a
//! short table of hot combinations of formats ([`step`]). *Tiles* serve everything else: 512 elements at a time are
//! decoded into f32 in the first-level cache, pass through the fused kernel for f32, and are encoded ([`tiles`]). A
//! tensor in f32 is never copied into a tile. Both give the same bits, and a caller cannot tell which ran.
//!
//! The caller ([`crate::task`]) upholds: the tensors have the task's length, the roles that the pass needs are given, and
//! no other thread has the same range.

pub(crate) mod bandwidth;
pub(crate) mod chunk;
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
use crate::pass::{Columns, Pass};
use crate::role::Role;
use crate::statistics::BLOCK;

/// Elements of a tile. Three tiles of f32 take 6 KiB, a fifth of the smallest first-level caches. Tiles of 256 were up to
/// 15 % slower in cache, tiles of 1,024 up to 1.55 times slower with formats of two streams.
pub(crate) const TILE: usize = 512;

/// The tensors of a task from one element on.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub(crate) columns: Columns,
    pub(crate) len: usize,
    /// The index of the first element in its variable.
    pub(crate) first: u64,
    pub(crate) prefetch: bool,
}

impl View {
    #[inline(always)]
    pub(crate) fn dtype(&self, role: Role) -> Dtype {
        self.columns.dtype(role)
    }

    /// The first stream of a tensor, from the element `start` on; null if the task does not have the tensor.
    #[inline(always)]
    pub(crate) fn f32_at(&self, role: Role, start: usize) -> *mut f32 {
        self.columns.first(role).cast::<f32>().wrapping_add(start)
    }

    /// Where the parameter is read.
    #[inline(always)]
    pub(crate) fn source(&self) -> Role {
        if self.columns.given().has(Role::Source) { Role::Source } else { Role::Parameter }
    }
}

/// Runs a pass over some elements of its tensors. The range begins at a multiple of [`BLOCK`](crate::BLOCK).
///
/// # Errors
/// [`Error::UnavailableBackend`]. Nothing is written then.
///
/// # Safety
/// The tensors are those that the pass needs; the range is within them, and nothing else reads or writes it.
#[inline(always)]
pub(crate) unsafe fn run(
    backend: Backend,
    prefetch: bool,
    pass: &Pass,
    columns: &Columns,
    first: u64,
    range: Range<usize>,
) -> Result<(), Error> {
    let columns = match range.start {
        0 => *columns,
        start => columns.from(start),
    };
    let first = first.wrapping_add(range.start as u64);
    let view = View { columns, len: range.end - range.start, first, prefetch };
    match pass {
        Pass::Step(step) => step::run(backend, step, &view),
        Pass::Accumulate(transform) => backend.run(elementwise::Accumulate { transform, view: &view }),
        Pass::Ema(ema) => backend.run(elementwise::UpdateEma { ema, view: &view }),
        Pass::Convert => backend.run(elementwise::Convert { view: &view }),
        Pass::Statistics(transform, blocks) => {
            let blocks = blocks.wrapping_add(range.start / BLOCK);
            backend.run(statistics::Blocks { transform, view: &view, blocks })
        }
        Pass::Bandwidth => backend.run(bandwidth::Bandwidth { view: &view }),
    }
}
