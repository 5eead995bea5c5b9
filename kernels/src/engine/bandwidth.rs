//! The bandwidth bound: the cheapest pass that moves the bytes of a task, as a baseline for measurements.
//!
//! It reads every tensor that the task reads, and rewrites every tensor that the task writes, in vectors of raw bits
//! with one operation per stored vector. The time of this pass is memory time; a step's additional time is arithmetic.
//! The pass skips the last elements that do not fill two vectors, because its results are not used.

use super::{TILE, View};
use crate::isa::{Isa, Kernel};
use crate::role::Role;

pub(super) struct Bandwidth<'a> {
    pub(super) view: &'a View,
}

impl Kernel for Bandwidth<'_> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let view = self.view;
        let size = |role| match view.dtype(role).streams() {
            [stream] if stream.per == 1 => stream.bytes,
            _ => 0,
        };
        let is_step = view.tensors.given().has(Role::Parameter);
        match (is_step, size(Role::Parameter), size(Role::Gradient), size(Role::Momentum)) {
            (true, 4, 4, 4) => isa.vectorize(Step::<4, 4, 4>(view)),
            (true, 4, 4, 2) => isa.vectorize(Step::<4, 4, 2>(view)),
            (true, 4, 2, 4) => isa.vectorize(Step::<4, 2, 4>(view)),
            (true, 4, 2, 2) => isa.vectorize(Step::<4, 2, 2>(view)),
            (true, 2, 4, 4) => isa.vectorize(Step::<2, 4, 4>(view)),
            (true, 2, 4, 2) => isa.vectorize(Step::<2, 4, 2>(view)),
            (true, 2, 2, 4) => isa.vectorize(Step::<2, 2, 4>(view)),
            (true, 2, 2, 2) => isa.vectorize(Step::<2, 2, 2>(view)),
            _ => isa.vectorize(Streams(view)),
        }
    }
}

/// A step with known element sizes. It xors the gradient's bits into parameter and momentum, so a second pass undoes
/// the first.
struct Step<'a, const P: usize, const G: usize, const M: usize>(&'a View);

impl<const P: usize, const G: usize, const M: usize> Kernel for Step<'_, P, G, M> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let start_of = |role| self.0.tensors.first(role);
        let (p, g, m) = (start_of(Role::Parameter), start_of(Role::Gradient), start_of(Role::Momentum));
        let chunk = 2 * I::LANES;
        let mut start = 0;
        while self.0.len - start >= chunk {
            // SAFETY: the three tensors have `len` elements of these sizes, and at least one whole chunk remains.
            unsafe {
                let gradient = load::<I, G>(isa, g.add(start * G));
                let parameter = load::<I, P>(isa, p.add(start * P));
                let momentum = load::<I, M>(isa, m.add(start * M));
                store::<I, M, G>(isa, m.add(start * M), momentum, gradient);
                store::<I, P, G>(isa, p.add(start * P), parameter, gradient);
            }
            start += chunk;
        }
    }
}

/// Loads the raw bits of a chunk: two vectors of 4-byte elements, or one vector of 2-byte elements, repeated.
///
/// # Safety
/// A chunk of elements of this size is readable at `from`.
#[inline(always)]
unsafe fn load<I: Isa, const SIZE: usize>(isa: I, from: *const u8) -> [I::U32; 2] {
    let from = from.cast::<I::U32>();
    // SAFETY: both vectors lie within the chunk. For 2-byte elements, the second load repeats the first.
    unsafe { [isa.load(from), isa.load(from.add(SIZE / 2 - 1))] }
}

/// # Safety
/// A chunk of elements of this size is writable at `to`.
#[inline(always)]
unsafe fn store<I: Isa, const SIZE: usize, const G: usize>(
    isa: I,
    to: *mut u8,
    bits: [I::U32; 2],
    gradient: [I::U32; 2],
) {
    for vector in 0..SIZE / 2 {
        // SAFETY: the vector lies within the chunk.
        unsafe {
            let combined = isa.xor(bits[vector], gradient[vector % (G / 2)]);
            isa.store(to.cast::<I::U32>().add(vector), combined);
        }
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
    let vector = size_of::<I::U32>();
    let ones = isa.splat_u32(u32::MAX);
    for index in 0..bytes / (2 * vector) * 2 {
        // SAFETY: the vector lies within the bytes.
        unsafe {
            let at = to.add(index * vector).cast::<I::U32>();
            isa.store(at, isa.xor(isa.load(at), ones));
        }
    }
}
