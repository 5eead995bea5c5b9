//! The streaming limit: the cheapest pass with the traffic of a step, to measure the step against.
//!
//! It reads parameter, gradient and momentum and writes parameter and momentum, in whole vectors of raw bits, with
//! one operation for each vector written. What a step takes longer than this is arithmetic; the rest is memory.
//! The traffic of a pass with other tensors is put together from passes that read one, or rewrite one.

use crate::dispatch::Backend;
use crate::element::{Slice, SliceMut, Storage, with_dtype};
use crate::error::{Error, same_length};
use crate::isa::{Isa, Kernel};

/// Combines the gradient's bits into parameter and momentum by exclusive or. A second pass undoes the first, so
/// an even number of passes on one backend leaves the tensors as they were.
///
/// Elements after the last whole block of two vectors, 8 to 32 elements, are left alone: this measures, it computes
/// nothing of use.
///
/// # Errors
/// [`Error::Length`] where the lengths differ, [`Error::UnavailableBackend`]. Nothing is written then.
pub fn stream<'a>(
    backend: Backend,
    parameter: impl Into<SliceMut<'a>>,
    gradient: impl Into<Slice<'a>>,
    momentum: impl Into<SliceMut<'a>>,
) -> Result<(), Error> {
    stream_slices(backend, parameter.into(), gradient.into(), momentum.into())
}

fn stream_slices(
    backend: Backend,
    mut parameter: SliceMut<'_>,
    gradient: Slice<'_>,
    mut momentum: SliceMut<'_>,
) -> Result<(), Error> {
    let len = parameter.len();
    same_length("gradient", gradient.len(), "parameter", len)?;
    same_length("momentum", momentum.len(), "parameter", len)?;
    let (p, g, m) = (parameter.dtype(), gradient.dtype(), momentum.dtype());
    let (to_p, from, to_m) = (parameter.as_mut_ptr(), gradient.as_ptr(), momentum.as_mut_ptr());
    with_dtype!(p, P => with_dtype!(g, G => with_dtype!(m, M => {
        backend.run(Stream {
            parameter: to_p.cast::<P>(),
            gradient: from.cast::<G>(),
            momentum: to_m.cast::<M>(),
            len,
        })
    })))
}

/// Reads a tensor, and does nothing with it.
pub(crate) fn read(backend: Backend, tensor: Slice<'_>) -> Result<(), Error> {
    let (from, bytes) = (tensor.as_ptr(), tensor.len() * tensor.dtype().size());
    backend.run(Read { from, bytes })
}

/// Writes the complement of each bit of a tensor.
pub(crate) fn rewrite(backend: Backend, mut tensor: SliceMut<'_>) -> Result<(), Error> {
    let bytes = tensor.len() * tensor.dtype().size();
    backend.run(Rewrite { tensor: tensor.as_mut_ptr(), bytes })
}

struct Read {
    from: *const u8,
    bytes: usize,
}

impl Kernel for Read {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let vector = size_of::<I::U32>();
        let mut sums = [isa.splat_u32(0); 2];
        for block in 0..self.bytes / (2 * vector) {
            for (index, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the vector lies within the tensor's bytes.
                let bits = unsafe { isa.load::<I::U32>(self.from.add((2 * block + index) * vector).cast()) };
                *sum = isa.xor(*sum, bits);
            }
        }
        core::hint::black_box(isa.xor(sums[0], sums[1]));
    }
}

struct Rewrite {
    tensor: *mut u8,
    bytes: usize,
}

impl Kernel for Rewrite {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let vector = size_of::<I::U32>();
        let ones = isa.splat_u32(u32::MAX);
        for index in 0..self.bytes / vector {
            // SAFETY: the vector lies within the tensor's bytes.
            unsafe {
                let place = self.tensor.add(index * vector).cast::<I::U32>();
                isa.store(place, isa.xor(isa.load(place), ones));
            }
        }
    }
}

struct Stream<P, G, M> {
    parameter: *mut P,
    gradient: *const G,
    momentum: *mut M,
    len: usize,
}

impl<P: Storage, G: Storage, M: Storage> Kernel for Stream<P, G, M> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let block = 2 * I::LANES;
        let mut start = 0;
        while self.len - start >= block {
            // SAFETY: the three tensors have `len` elements, of which a whole block is left.
            unsafe {
                let gradient = load::<I, G>(isa, self.gradient.add(start));
                let parameter = load::<I, P>(isa, self.parameter.add(start));
                let momentum = load::<I, M>(isa, self.momentum.add(start));
                store::<I, M, G>(isa, self.momentum.add(start), momentum, gradient);
                store::<I, P, G>(isa, self.parameter.add(start), parameter, gradient);
            }
            start += block;
        }
    }
}

/// The vectors that hold a block's raw bits: two of 32-bit elements, one of 16-bit elements.
const fn vectors<T>() -> usize {
    const { assert!(matches!(size_of::<T>(), 2 | 4)) };
    size_of::<T>() / 2
}

/// The raw bits of a block, the second place unused by a 16-bit format.
///
/// # Safety
/// A block is readable at `from`.
#[inline(always)]
unsafe fn load<I: Isa, T>(isa: I, from: *const T) -> [I::U32; 2] {
    // SAFETY: the second vector of a 16-bit format is the first once more.
    unsafe { [isa.load(from.cast()), isa.load(from.cast::<I::U32>().add(vectors::<T>() - 1))] }
}

/// # Safety
/// A block is writable at `to`.
#[inline(always)]
unsafe fn store<I: Isa, T, G>(isa: I, to: *mut T, bits: [I::U32; 2], gradient: [I::U32; 2]) {
    for vector in 0..vectors::<T>() {
        // SAFETY: the vector is one of the block's.
        unsafe {
            let combined = isa.xor(bits[vector], gradient[vector % vectors::<G>()]);
            isa.store(to.cast::<I::U32>().add(vector), combined);
        }
    }
}
