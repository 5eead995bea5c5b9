//! Tiles: decode a piece of each tensor to f32, apply the fused kernel for f32 to it, encode the results.
//!
//! Each stage is a function of its own, compiled once per instruction set, so that formats and options add up and do not
//! multiply. What a stage hands to the next lies in a tile on the stack, in the first-level cache. A tensor in f32 is not
//! copied: the stages work on its own memory.
//!
//! All stages of a tile run before the next tile is touched, so a pass reads and writes each byte of memory once.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::null_mut;

use super::direction::Directions;
use super::elementwise::average_in_tile;
use super::fused::{Bare, Formats, Full, Nearest, Optional, StoreStochastic, Tensors};
use super::{TILE, View};
use crate::buffer::LINE;
use crate::column::{streams_of, streams_of_mut};
use crate::format::{Dtype, Format, with_format};
use crate::isa::prefetch::prefetch;
use crate::isa::{Isa, Kernel};
use crate::role::Role;
use crate::rule::{Decay, Scale, Unscaled, with_decay};
use crate::settings::{Ema, GradientTransform, LionStep};

/// Room for the decoded values of a tensor. Zeroed when it is first used: to zero what is never used would cost more than
/// a step over a small tensor.
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

    /// The values, all initialised.
    #[inline(always)]
    pub(super) fn start(&mut self) -> *mut f32 {
        let start = self.values.as_mut_ptr().cast::<f32>();
        if !self.zeroed {
            // SAFETY: there is room for as many.
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

/// Calls `each` with the first element and the length of every tile.
#[inline(always)]
pub(super) fn for_each_tile(len: usize, mut each: impl FnMut(usize, usize)) {
    let mut start = 0;
    while start < len {
        let n = (len - start).min(TILE);
        each(start, n);
        start += n;
    }
}

/// The values of `n` elements of a tensor from `start` on: its own memory if it is in f32, else decoded into the tile.
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
    let [first, second] = view.columns.streams(role, start);
    let to = tile.start();
    with_format!(dtype, F => isa.vectorize(Decode::<F> { first, second, to, n, format: PhantomData }));
    to
}

/// Stores `n` values as elements of a tensor from `start` on. Does nothing if the values are the tensor's own memory.
///
/// # Safety
/// As for [`decode`], and the values do not overlap the tensor unless they are its own memory.
#[inline(always)]
pub(super) unsafe fn encode<I: Isa>(
    isa: I,
    view: &View,
    role: Role,
    start: usize,
    n: usize,
    from: *const f32,
) {
    let [first, second] = view.columns.streams(role, start);
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

/// Built by [`decode`] only, whose contract it has.
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

/// Built by [`encode`] only, whose contract it has.
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

/// Asks for the part of a tensor that the next tile reads.
#[inline(always)]
fn prefetch_next(view: &View, role: Role, start: usize) {
    if !view.prefetch || view.len - start < 3 * TILE {
        return;
    }
    let streams = view.columns.streams(role, start + 2 * TILE);
    for (first, stream) in streams.iter().zip(view.dtype(role).streams()) {
        for line in (0..stream.bytes_of(TILE)).step_by(LINE) {
            prefetch(first.addr().wrapping_add(line));
        }
    }
}

/// The rule alone, with the momentum through a tile, and parameter and gradient as the fused kernel of a row has them.
pub(super) struct MomentumStep<'a, T, D, S> {
    pub(super) step: &'a LionStep,
    pub(super) view: &'a View,
    pub(super) row: PhantomData<(T, D, S)>,
}

impl<T: Formats<M = f32>, D: Decay, S: Scale> Kernel for MomentumStep<'_, T, D, S> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let MomentumStep { step, view, .. } = self;
        if !const { I::FUSED || T::SCALAR_LANES } {
            return isa.vectorize(Step { step, view });
        }
        let mut tile = Tile::new();
        // SAFETY: the tiles cover the view, and the tensors are given.
        for_each_tile(view.len, |start, n| unsafe {
            let momentum = decode(isa, view, Role::Momentum, start, n, &mut tile);
            prefetch_next(view, Role::Momentum, start);
            let tensors = Tensors::<T>::with_momentum(view, start, n, momentum);
            isa.vectorize(Bare::<T, D, S, Nearest> { step, tensors, variant: PhantomData });
            encode(isa, view, Role::Momentum, start, n, momentum);
        });
    }
}

/// The step with every optional part.
pub(super) struct Step<'a> {
    pub(super) step: &'a LionStep,
    pub(super) view: &'a View,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let Step { step, view } = self;
        // The average and the copy are of the parameter as stored, so they come after the encoding.
        let rule = LionStep { ema: None, ..*step };
        let stochastic = step.stochastic_rounding.is_some();
        let transforms = step.gradient != GradientTransform::default();
        let (given, follows) = (view.columns.given(), step.follows);
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
            // In f32 the rule writes the parameter to its place, else to where it was decoded.
            let to = match view.dtype(Role::Parameter) {
                Dtype::F32 => view.f32_at(Role::Parameter, start),
                _ => from,
            };
            let tensors = || Tensors { from, to, gradient, momentum, first: 0, len: n, prefetch: false };
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
                    to: view.columns.streams(Role::Parameter, start)[0].cast(),
                    first: view.first.wrapping_add(start as u64),
                    n,
                }),
            }
            observe(isa, step.ema.as_ref(), view, start, n, &mut p_tile);
        });
    }
}

/// The moving average and the copy of a parameter that has been stored: both see the stored value.
///
/// # Safety
/// As for [`decode`].
#[inline(always)]
unsafe fn observe<I: Isa>(isa: I, ema: Option<&Ema>, view: &View, start: usize, n: usize, tile: &mut Tile) {
    let copies = view.columns.given().has(Role::Copy);
    // SAFETY: by this function's contract; the average is given if there is an `ema`.
    unsafe {
        let stored = match ema {
            Some(ema) => average_in_tile(isa, ema, view, start, n, tile),
            None if copies => decode(isa, view, Role::Parameter, start, n, tile).cast_const(),
            None => return,
        };
        if copies {
            encode(isa, view, Role::Copy, start, n, stored);
        }
    }
}
