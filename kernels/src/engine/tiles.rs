//! Tiles: decode a part of each tensor to f32, apply the fused kernel for f32, encode the results.
//!
//! Each stage is a separate function, compiled once per instruction set. So code size grows with the sum of formats and
//! options, not with their product. The stages exchange data through tiles on the stack, in the L1 cache. An f32 tensor
//! is not copied: the stages work on its memory.
//!
//! All stages of a tile run before the next tile starts. So a pass reads and writes each byte of memory once.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::null_mut;

use super::direction::Directions;
use super::elementwise::update_ema_in_tile;
use super::fused::{Bare, Full, Nearest, Optional, StoreStochastic, TypedTensors};
use super::{TILE, View};
use crate::buffer::LINE;
use crate::format::{Dtype, Format, with_format};
use crate::isa::prefetch::prefetch;
use crate::isa::{Isa, Kernel};
use crate::role::Role;
use crate::rule::{Unscaled, with_decay};
use crate::settings::{Ema, GradientTransform, LionStep};
use crate::tensor::{streams_of, streams_of_mut};

/// A buffer for the decoded values of one tensor. It is zeroed on first use, because zeroing unused tiles would cost
/// more than a step over a small tensor.
#[repr(C, align(64))]
pub(super) struct Tile {
    values: MaybeUninit<[f32; TILE]>,
    zeroed: bool,
}

impl Tile {
    #[inline(always)]
    pub(super) const fn new() -> Self {
        Tile { values: MaybeUninit::uninit(), zeroed: false }
    }

    /// Returns the address of the values, all initialised.
    #[inline(always)]
    pub(super) fn start(&mut self) -> *mut f32 {
        let start = self.values.as_mut_ptr().cast::<f32>();
        if !self.zeroed {
            // SAFETY: the buffer has `TILE` elements.
            unsafe { start.write_bytes(0, TILE) };
            self.zeroed = true;
        }
        start
    }

    /// The values, all zero.
    #[inline(always)]
    fn clear(&mut self) -> *mut f32 {
        self.zeroed = false;
        self.start()
    }
}

/// Calls `each` with the start and the length of every tile.
#[inline(always)]
pub(super) fn for_each_tile(len: usize, mut each: impl FnMut(usize, usize)) {
    let mut start = 0;
    while start < len {
        let n = (len - start).min(TILE);
        each(start, n);
        start += n;
    }
}

/// Returns the values of `n` elements of a tensor from `start` on: its memory if the tensor is f32, otherwise the tile,
/// after decoding into it.
///
/// # Safety
/// The elements are within the view's tensors, and the tensor is given.
#[inline(always)]
pub(super) unsafe fn decode<I: Isa>(
    isa: I,
    view: &View,
    role: Role,
    start: usize,
    n: usize,
    tile: &mut Tile,
) -> *mut f32 {
    let dtype = view.dtype(role);
    if dtype == Dtype::F32 {
        return view.f32_at(role, start);
    }
    let [first, second] = view.tensors.streams(role, start);
    let to = tile.start();
    with_format!(dtype, F => isa.vectorize(Decode::<F> { first, second, to, n, format: PhantomData }));
    to
}

/// Stores `n` values as elements of a tensor from `start` on. Does nothing if the values already are the tensor's
/// memory.
///
/// # Safety
/// The contract of [`decode`], and the values do not overlap the tensor unless they are its memory.
#[inline(always)]
pub(super) unsafe fn encode<I: Isa>(
    isa: I,
    view: &View,
    role: Role,
    start: usize,
    n: usize,
    from: *const f32,
) {
    let [first, second] = view.tensors.streams(role, start);
    if first.cast_const() == from.cast() {
        return;
    }
    with_format!(view.dtype(role), F => {
        isa.vectorize(Encode::<F> { first, second, from, n, format: PhantomData })
    });
}

struct Decode<F> {
    first: *const u8,
    second: *const u8,
    to: *mut f32,
    n: usize,
    format: PhantomData<F>,
}

/// Only [`decode`] creates this kernel, under its contract.
impl<F: Format> Kernel for Decode<F> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        // SAFETY: the streams hold `n` elements, the tile has room for as many, and the two do not overlap.
        let (first, second, to) = unsafe {
            let (first, second) = streams_of::<F>(self.first, self.second, self.n);
            (first, second, core::slice::from_raw_parts_mut(self.to, self.n))
        };
        F::decode(isa, first, second, to);
    }
}

struct Encode<F> {
    first: *mut u8,
    second: *mut u8,
    from: *const f32,
    n: usize,
    format: PhantomData<F>,
}

/// Only [`encode`] creates this kernel, under its contract.
impl<F: Format> Kernel for Encode<F> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        // SAFETY: the streams and the values hold `n` elements and do not overlap.
        let (first, second, from) = unsafe {
            let (first, second) = streams_of_mut::<F>(self.first, self.second, self.n);
            (first, second, core::slice::from_raw_parts(self.from, self.n))
        };
        F::encode(isa, from, first, second);
    }
}

/// Prefetches the part of a tensor that a later tile reads.
#[inline(always)]
fn prefetch_next(view: &View, role: Role, start: usize) {
    if !view.prefetch || view.len - start < 3 * TILE {
        return;
    }
    let streams = view.tensors.streams(role, start + 2 * TILE);
    for (first, stream) in streams.iter().zip(view.dtype(role).streams()) {
        for line in (0..stream.bytes_of(TILE)).step_by(LINE) {
            prefetch(first.addr().wrapping_add(line));
        }
    }
}

/// The kernel of a step with every optional part, for any formats.
pub(super) struct Step<'a> {
    pub(super) step: &'a LionStep,
    pub(super) view: &'a View,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let Step { step, view } = self;
        // The average and the copy use the stored parameter, so they follow the encoding.
        let rule = LionStep { ema: None, ..*step };
        let stochastic = step.stochastic_rounding.is_some();
        let transforms = step.gradient != GradientTransform::default();
        let (given, follows) = (view.tensors.given(), step.follows);
        let source = if follows { Role::Direction } else { Role::Gradient };
        let (mut p_tile, mut g_tile, mut m_tile) = (Tile::new(), Tile::new(), Tile::new());
        let mut directions = Tile::new();
        // SAFETY: the tiles cover the view, and the tensors that the settings need are given.
        for_each_tile(view.len, |start, n| unsafe {
            prefetch_next(view, view.source(), start);
            let from = decode(isa, view, view.source(), start, n, &mut p_tile);
            let gradient = decode(isa, view, source, start, n, &mut g_tile);
            prefetch_next(view, source, start);
            let momentum = match follows {
                false => decode(isa, view, Role::Momentum, start, n, &mut m_tile),
                true => m_tile.clear(),
            };
            // The rule writes an f32 parameter to its tensor, and any other to the tile that holds its decoded values.
            let to = match view.dtype(Role::Parameter) {
                Dtype::F32 => view.f32_at(Role::Parameter, start),
                _ => from,
            };
            let tensors = || TypedTensors { from, to, gradient, momentum, first: 0, len: n, prefetch: false };
            let accumulator = view.f32_at(Role::Accumulator, start);
            // Before the rule moves the momentum and clears the accumulator.
            if given.has(Role::Direction) && !follows {
                let to = directions.start();
                isa.vectorize(Directions { step, gradient, momentum, accumulator, to, n });
                encode(isa, view, Role::Direction, start, n, to);
            }
            with_decay!(step, D => match transforms {
                false => isa.vectorize(Bare::<(f32, f32, f32), D, Unscaled, Nearest> {
                    step: &rule,
                    tensors: tensors(),
                    variant: PhantomData,
                }),
                true => isa.vectorize(Full::<(f32, f32, f32), D> {
                    step: &rule,
                    tensors: tensors(),
                    optional: Optional { accumulator, ema: null_mut(), copy: None },
                    variant: PhantomData,
                }),
            });
            if !follows {
                prefetch_next(view, Role::Momentum, start);
                encode(isa, view, Role::Momentum, start, n, momentum);
            }
            match stochastic {
                false => encode(isa, view, Role::Parameter, start, n, to),
                true => isa.vectorize(StoreStochastic {
                    step,
                    from: to,
                    to: view.tensors.streams(Role::Parameter, start)[0].cast(),
                    first: view.first.wrapping_add(start as u64),
                    n,
                }),
            }
            update_ema_and_copy(isa, step.ema.as_ref(), view, start, n, &mut p_tile);
        });
    }
}

/// Updates the moving average and the copy from the stored parameter.
///
/// # Safety
/// The contract of [`decode`].
#[inline(always)]
unsafe fn update_ema_and_copy<I: Isa>(
    isa: I,
    ema: Option<&Ema>,
    view: &View,
    start: usize,
    n: usize,
    tile: &mut Tile,
) {
    let copies = view.tensors.given().has(Role::Copy);
    // SAFETY: by this function's contract; the average is given if there is an `ema`.
    unsafe {
        let stored = match ema {
            Some(ema) => update_ema_in_tile(isa, ema, view, start, n, tile),
            None if copies => decode(isa, view, Role::Parameter, start, n, tile).cast_const(),
            None => return,
        };
        if copies {
            encode(isa, view, Role::Copy, start, n, stored);
        }
    }
}
