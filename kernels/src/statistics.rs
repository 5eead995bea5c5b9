//! What a call must know about a gradient before it can use it: its norm, and whether it is finite.
//!
//! A sum depends on its order, so the order is fixed: a tensor is cut into blocks of [`BLOCK`] elements, element
//! `i` of a block is added to partial sum `i % 32`, the 32 partial sums of a block are added as a balanced tree and
//! the blocks from the first to the last, all in f64, in which the square of an f32 is exact. Every backend has a
//! number of lanes that divides 32, and every chunk is a number of whole blocks: the same bits on all of them.

use crate::dispatch::Backend;
use crate::element::{Slice, Storage, with_dtype};
use crate::error::{Error, same_length};
use crate::isa::{Isa, Kernel};
use crate::rule::GradientRule;
use crate::settings::Gradient;
use crate::step::prepared;
use crate::sweep::Window;

/// Elements of a block, the smallest unit that statistics can be cut into.
pub const BLOCK: usize = 4096;

/// Partial sums of a block.
const WAYS: usize = 32;

const ABSOLUTE: u32 = 0x7fff_ffff;
const INFINITY: u32 = 0x7f80_0000;

/// What one pass over a gradient finds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// The sum of the squares of the elements, unscaled and averaged but not clipped. NaN or infinite where an
    /// element is.
    pub sum_of_squares: f64,
    /// How many elements were infinite or NaN as they were passed, before unscaling.
    pub non_finite: u64,
    /// The largest magnitude among the finite elements, unscaled and averaged but not clipped; 0 if there is none.
    pub largest: f32,
}

impl Statistics {
    /// The statistics of consecutive blocks, from those of each.
    pub fn of_blocks(blocks: &[Statistics]) -> Self {
        blocks.iter().fold(Self::default(), |all, block| all.followed_by(block))
    }

    /// The L2 norm. The sum is rounded to f32 before its root is taken, so that the norm is infinite where Keras's is.
    #[cfg(feature = "std")]
    pub fn norm(&self) -> f32 {
        (self.sum_of_squares as f32).sqrt()
    }

    /// The statistics of this part and then that one. Which order is part of the result's bits.
    #[must_use]
    pub fn followed_by(&self, next: &Self) -> Self {
        Statistics {
            sum_of_squares: self.sum_of_squares + next.sum_of_squares,
            non_finite: self.non_finite + next.non_finite,
            largest: self.largest.max(next.largest),
        }
    }
}

/// The statistics of a whole gradient.
///
/// `settings` says how the gradient is unscaled and averaged with `accumulator` first; its clipping is not applied,
/// as the norm that it needs is found here.
///
/// ```
/// use lion_kernels::{Backend, Gradient, statistics};
///
/// let found = statistics(Backend::best(), &Gradient::new(), &[3.0_f32, -4.0][..], None)?;
/// assert_eq!((found.norm(), found.non_finite, found.largest), (5.0, 0, 4.0));
/// # Ok::<(), lion_kernels::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`], [`Error::MissingTensor`] or [`Error::UnusedTensor`] where gradient, accumulator and settings
/// do not fit, [`Error::UnavailableBackend`].
pub fn statistics<'a>(
    backend: Backend,
    settings: &Gradient,
    gradient: impl Into<Slice<'a>>,
    accumulator: Option<&[f32]>,
) -> Result<Statistics, Error> {
    let mut all = Statistics::default();
    each_block(backend, settings, gradient.into(), accumulator, &mut |_, block| {
        all = all.followed_by(&block)
    })?;
    Ok(all)
}

/// The statistics of each block of a gradient, for callers that cut a tensor among threads at multiples of
/// [`BLOCK`]: [`Statistics::of_blocks`] of all blocks in order has the bits of [`statistics()`].
///
/// # Errors
/// As [`statistics()`], and [`Error::Blocks`] where `blocks` has not `gradient.len().div_ceil(BLOCK)` places.
pub fn block_statistics<'a>(
    backend: Backend,
    settings: &Gradient,
    gradient: impl Into<Slice<'a>>,
    accumulator: Option<&[f32]>,
    blocks: &mut [Statistics],
) -> Result<(), Error> {
    let gradient = gradient.into();
    check_blocks(settings, &gradient, accumulator, blocks)?;
    each_block(backend, settings, gradient, accumulator, &mut |index, block| {
        if let Some(place) = blocks.get_mut(index) {
            *place = block;
        }
    })
}

/// Whether gradient, settings, accumulator and room fit.
pub(crate) fn check_blocks(
    settings: &Gradient,
    gradient: &Slice<'_>,
    accumulator: Option<&[f32]>,
    blocks: &[Statistics],
) -> Result<(), Error> {
    check_accumulator(settings, gradient, accumulator)?;
    let (found, elements) = (blocks.len(), gradient.len());
    let expected = elements.div_ceil(BLOCK);
    if found == expected { Ok(()) } else { Err(Error::Blocks { found, expected, elements }) }
}

fn check_accumulator(
    settings: &Gradient,
    gradient: &Slice<'_>,
    accumulator: Option<&[f32]>,
) -> Result<(), Error> {
    match (settings.accumulation_steps, accumulator.map(<[f32]>::len)) {
        (Some(_), None) => Err(Error::MissingTensor { tensor: "accumulator" }),
        (None, Some(_)) => Err(Error::UnusedTensor { tensor: "accumulator" }),
        (Some(_), Some(found)) => same_length("accumulator", found, "gradient", gradient.len()),
        (None, None) => Ok(()),
    }
}

fn each_block(
    backend: Backend,
    settings: &Gradient,
    gradient: Slice<'_>,
    accumulator: Option<&[f32]>,
    take: &mut dyn FnMut(usize, Statistics),
) -> Result<(), Error> {
    check_accumulator(settings, &gradient, accumulator)?;
    // Of an empty gradient no block asks.
    let backend = backend.required()?;
    let len = gradient.len();
    let accumulator = accumulator.map_or(core::ptr::null(), <[f32]>::as_ptr);
    let from = gradient.as_ptr();
    with_dtype!(gradient.dtype(), G => {
        for (index, start) in (0..len).step_by(BLOCK).enumerate() {
            let end = len.min(start + BLOCK);
            let block = Block { settings, gradient: from.cast::<G>(), accumulator, start, end };
            take(index, backend.run(block)?);
        }
    });
    Ok(())
}

struct Block<'a, G> {
    settings: &'a Gradient,
    gradient: *const G,
    accumulator: *const f32,
    start: usize,
    end: usize,
}

impl<G: Storage> Kernel for Block<'_, G> {
    type Output = Statistics;

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) -> Statistics {
        let found = self.sums::<I, false>(isa).total();
        match found.largest.is_finite() {
            true => found,
            false => self.sums::<I, true>(isa).total(),
        }
    }
}

impl<G: Storage> Block<'_, G> {
    #[inline(always)]
    fn sums<I: Isa, const COUNTS: bool>(&self, isa: I) -> Sums<I, COUNTS> {
        let mut sums = Sums {
            isa,
            rule: GradientRule::new(isa, self.settings),
            squares: [[[isa.zero_f64(); 2]; 2]; WAYS / 8],
            non_finite: isa.splat_u32(0),
            largest: isa.splat_u32(0),
        };
        let mut start = self.start;
        while self.end - start >= WAYS {
            each_pair::<I>(
                #[inline(always)]
                |pair| {
                    let window = Window::whole(isa, start + pair * 2 * I::LANES);
                    // SAFETY: the WAYS elements from `start` lie within the tensors.
                    unsafe { sums.add(pair, window, self.gradient, self.accumulator) };
                },
            );
            start += WAYS;
        }
        each_pair::<I>(
            #[inline(always)]
            |pair| {
                let start = start + pair * 2 * I::LANES;
                if start < self.end {
                    let window = Window::part(isa, start, self.end - start);
                    // SAFETY: the window ends where the tensors do, at the latest.
                    unsafe { sums.add(pair, window, self.gradient, self.accumulator) };
                }
            },
        );
        sums
    }
}

/// Calls `f` for each pair of vectors among the `WAYS`. Written out, because the compiler unrolls a loop of bodies this
/// long only after it has put the sums into memory.
#[inline(always)]
fn each_pair<I: Isa>(mut f: impl FnMut(usize)) {
    const { assert!(WAYS == 32 && matches!(I::LANES, 4 | 8 | 16)) };
    f(0);
    if I::LANES <= 8 {
        f(1);
    }
    if I::LANES <= 4 {
        f(2);
        f(3);
    }
}

/// The sums of a block. What is not finite stays so when it is unscaled and averaged: where the largest magnitude is
/// finite, every element was. Only where it is not are they told apart and counted, which is what `COUNTS` says.
struct Sums<I: Isa, const COUNTS: bool> {
    isa: I,
    rule: GradientRule<I>,
    /// By pair of vectors among the `WAYS`, vector, and half of its lanes. Those of long vectors leave some unused.
    squares: [[[I::F64; 2]; 2]; WAYS / 8],
    non_finite: I::U32,
    largest: I::U32,
}

impl<I: Isa, const COUNTS: bool> Sums<I, COUNTS> {
    /// # Safety
    /// The window lies within the gradient and, where the rule averages, within the accumulator.
    #[inline(always)]
    unsafe fn add<G: Storage, const WHOLE: bool>(
        &mut self,
        pair: usize,
        window: Window<I, WHOLE>,
        gradient: *const G,
        accumulator: *const f32,
    ) {
        let isa = self.isa;
        // SAFETY: by this function's contract.
        let (raw, used) = unsafe {
            let raw = window.load(gradient, false);
            (raw, prepared(&self.rule, window, raw, accumulator))
        };
        // Divided by a scale of zero, the zeros beyond the end are NaN.
        let used = window.cleared(used);
        for vector in 0..2 {
            let mut magnitude = isa.and(isa.to_bits(used[vector]), isa.splat_u32(ABSOLUTE));
            if COUNTS {
                let finite = isa.less_u31(magnitude, isa.splat_u32(INFINITY));
                magnitude = isa.select(finite, magnitude, isa.splat_u32(0));

                let raw = isa.and(isa.to_bits(raw[vector]), isa.splat_u32(ABSOLUTE));
                let finite = isa.less_u31(raw, isa.splat_u32(INFINITY));
                let one = isa.select(finite, isa.splat_u32(0), isa.splat_u32(1));
                self.non_finite = isa.add_u32(self.non_finite, one);
            }
            self.largest = isa.max_u32(self.largest, magnitude);

            let halves = isa.to_f64(used[vector]);
            for (sum, half) in self.squares[pair][vector].iter_mut().zip(halves) {
                *sum = isa.add_square(*sum, half);
            }
        }
    }

    #[inline(always)]
    fn total(&self) -> Statistics {
        let mut squares = [0.0_f64; WAYS];
        let mut non_finite = [0_u32; WAYS];
        let mut largest = [0_u32; WAYS];
        for pair in 0..WAYS / (2 * I::LANES) {
            for vector in 0..2 {
                for half in 0..2 {
                    let lane = (4 * pair + 2 * vector + half) * (I::LANES / 2);
                    // SAFETY: the halves' lanes tile the WAYS places.
                    unsafe {
                        self.isa
                            .store(squares.as_mut_ptr().add(lane).cast(), self.squares[pair][vector][half]);
                    }
                }
            }
        }
        // SAFETY: a vector has at most 16 lanes.
        unsafe {
            self.isa.store(non_finite.as_mut_ptr().cast(), self.non_finite);
            self.isa.store(largest.as_mut_ptr().cast(), self.largest);
        }
        let mut width = WAYS;
        while width > 1 {
            width /= 2;
            for way in 0..width {
                squares[way] += squares[way + width];
            }
        }
        Statistics {
            sum_of_squares: squares[0],
            non_finite: non_finite.iter().map(|&count| u64::from(count)).sum(),
            largest: f32::from_bits(largest.iter().copied().fold(0, u32::max)),
        }
    }
}
