//! The bandwidth bound: the cheapest pass that moves the bytes of a task, as a baseline for measurements.
//!
//! It reads every tensor that the task reads, and rewrites every tensor that the task writes, in vectors of raw bits
//! with one operation per stored vector. The time of this pass is memory time; a step's additional time is arithmetic.
//! The pass skips the last elements that do not fill a chunk, because its results are not used.

use super::chunk::prefetch_after;
use super::{TILE, View};
use crate::buffer::LINE;
use crate::format::Stream;
use crate::format::q8::BLOCK;
use crate::isa::{Isa, Kernel};
use crate::role::Role;

/// The pattern of a stream that has an entry of this many bytes for each element.
macro_rules! entry {
    ($bytes:literal) => {
        Stream { bytes: $bytes, per: 1, .. }
    };
}

pub(super) struct Bandwidth<'a> {
    pub(super) view: &'a View,
}

impl Kernel for Bandwidth<'_> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let view = self.view;
        let is_step = view.tensors.given().has(Role::Parameter);
        match (is_step, view.dtype(Role::Parameter).streams()) {
            (true, [entry!(4)]) => with_gradient::<I, 4, 0>(isa, view),
            (true, [entry!(2)]) => with_gradient::<I, 2, 0>(isa, view),
            (true, [entry!(2), entry!(2)]) => with_gradient::<I, 2, 2>(isa, view),
            _ => isa.vectorize(Streams(view)),
        }
    }
}

#[inline(always)]
fn with_gradient<I: Isa, const P: usize, const LOW: usize>(isa: I, view: &View) {
    match view.dtype(Role::Gradient).streams() {
        [entry!(4)] => with_momentum::<I, P, LOW, 4>(isa, view),
        [entry!(2)] => with_momentum::<I, P, LOW, 2>(isa, view),
        _ => isa.vectorize(Streams(view)),
    }
}

#[inline(always)]
fn with_momentum<I: Isa, const P: usize, const LOW: usize, const G: usize>(isa: I, view: &View) {
    match view.dtype(Role::Momentum).streams() {
        [entry!(4)] => isa.vectorize(Step::<P, LOW, G, 4>(view)),
        [entry!(2)] => isa.vectorize(Step::<P, LOW, G, 2>(view)),
        [entry!(1), Stream { bytes: 4, per: BLOCK, .. }] => isa.vectorize(Step::<P, LOW, G, 1>(view)),
        _ => isa.vectorize(Streams(view)),
    }
}

/// A step with known element sizes, in bytes: of the parameter, of its low half (0 if it has none), of the gradient and
/// of the momentum. Momentum of one byte has a scale for each block.
///
/// It xors the gradient's bits into the other tensors, so a second pass undoes the first. It prefetches as a step does.
struct Step<'a, const P: usize, const LOW: usize, const G: usize, const M: usize>(&'a View);

impl<const P: usize, const LOW: usize, const G: usize, const M: usize> Kernel for Step<'_, P, LOW, G, M> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let Step(view) = self;
        let [parameter, low] = view.tensors.streams(Role::Parameter, 0);
        let [momentum, scales] = view.tensors.streams(Role::Momentum, 0);
        let gradient = view.tensors.first(Role::Gradient);
        // As many elements as a vector has bytes.
        let chunk = size_of::<I::U32>();
        let mut start = 0;
        while view.len - start >= chunk {
            // SAFETY: the tensors have `len` elements of these sizes, and at least a whole chunk remains. Each block of
            // elements has a scale.
            unsafe {
                let gradient = load::<I, G>(isa, gradient.add(start * G), view.prefetch);
                xor::<I, P, G>(isa, parameter.wrapping_add(start * P), gradient, view.prefetch);
                xor::<I, LOW, G>(isa, low.wrapping_add(start * LOW), gradient, view.prefetch);
                xor::<I, M, G>(isa, momentum.wrapping_add(start * M), gradient, view.prefetch);
                if M == 1 && start % BLOCK == 0 {
                    let scale = scales.cast::<u32>().add(start / BLOCK);
                    scale.write_unaligned(scale.read_unaligned() ^ 1);
                }
            }
            start += chunk;
        }
    }
}

/// Loads the raw bits of a chunk: one vector for each byte of an element.
///
/// # Safety
/// A chunk of elements of this size is readable at `from`.
#[inline(always)]
unsafe fn load<I: Isa, const SIZE: usize>(isa: I, from: *const u8, prefetch: bool) -> [I::U32; SIZE] {
    core::array::from_fn(
        #[inline(always)]
        |vector| {
            let offset = vector * size_of::<I::U32>();
            let from = from.wrapping_add(offset);
            if prefetch && offset.is_multiple_of(LINE) {
                prefetch_after(from.addr());
            }
            // SAFETY: the vector lies within the chunk.
            unsafe { isa.load(from.cast()) }
        },
    )
}

/// Xors the gradient's bits into a chunk.
///
/// # Safety
/// A chunk of elements of this size is readable and writable at `to`.
#[inline(always)]
unsafe fn xor<I: Isa, const SIZE: usize, const G: usize>(
    isa: I,
    to: *mut u8,
    gradient: [I::U32; G],
    prefetch: bool,
) {
    // SAFETY: by this function's contract.
    let bits = unsafe { load::<I, SIZE>(isa, to, prefetch) };
    for (vector, bits) in bits.into_iter().enumerate() {
        let combined = isa.xor(bits, gradient[vector % G]);
        // SAFETY: the vector lies within the chunk.
        unsafe { isa.store(to.cast::<I::U32>().add(vector), combined) };
    }
}

/// A pass over any tensors, tile by tile: it flips each bit of written tensors and reads the others.
struct Streams<'a>(&'a View);

impl Kernel for Streams<'_> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let view = self.0;
        let mut read = [isa.splat_u32(0); 2];
        let mut start = 0;
        while start < view.len {
            let n = (view.len - start).min(TILE);
            for role in view.tensors.given().roles() {
                let streams = view.tensors.streams(role, start);
                for (&stream, layout) in streams.iter().zip(view.dtype(role).streams()) {
                    let bytes = layout.bytes_of(n);
                    // SAFETY: the stream holds `n` elements from `start` on.
                    unsafe {
                        match role.is_written() {
                            true => flip(isa, stream, bytes),
                            false => read = fold(isa, stream, bytes, read),
                        }
                    }
                }
            }
            start += n;
        }
        core::hint::black_box(isa.xor(read[0], read[1]));
    }
}

/// # Safety
/// `bytes` bytes at `from` are readable.
#[inline(always)]
unsafe fn fold<I: Isa>(isa: I, from: *const u8, bytes: usize, mut sums: [I::U32; 2]) -> [I::U32; 2] {
    let vector = size_of::<I::U32>();
    for pair in 0..bytes / (2 * vector) {
        for (index, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the vector lies within the bytes.
            let bits = unsafe { isa.load::<I::U32>(from.add((2 * pair + index) * vector).cast()) };
            *sum = isa.xor(*sum, bits);
        }
    }
    sums
}

/// # Safety
/// `bytes` bytes at `to` are readable and writable.
#[inline(always)]
unsafe fn flip<I: Isa>(isa: I, to: *mut u8, bytes: usize) {
    let ones = isa.splat_u32(u32::MAX);
    for start in (0..bytes).step_by(size_of::<I::U32>()) {
        let at = to.wrapping_add(start).cast::<I::U32>();
        let rest = bytes - start;
        // SAFETY: the vector, or its first `rest` bytes, lies within the bytes.
        unsafe {
            if rest >= size_of::<I::U32>() {
                isa.store(at, isa.xor(isa.load(at), ones));
            } else {
                isa.store_partial(at, rest, isa.xor(isa.load_partial(at, rest), ones));
            }
        }
    }
}
