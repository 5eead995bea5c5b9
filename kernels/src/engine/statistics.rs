//! Gradient statistics by block, in the order that [`crate::statistics`] fixes.

use super::chunk::Chunk;
use super::lanes::{LaneCodec, Pair, with_lanes};
use super::tiles::{Tile, decode};
use super::{TILE, View};
use crate::isa::{Isa, Kernel};
use crate::role::Role;
use crate::rule::GradientOps;
use crate::settings::GradientTransform;
use crate::statistics::{GradientStatistics, STATISTICS_BLOCK};

/// The number of partial sums of a block.
const PARTIAL_SUMS: usize = 32;
const _: () = assert!(STATISTICS_BLOCK.is_multiple_of(TILE) && TILE.is_multiple_of(PARTIAL_SUMS));

const ABSOLUTE: u32 = 0x7fff_ffff;
const INFINITY: u32 = 0x7f80_0000;

/// The kernel that computes the statistics of each block of the view's gradient.
pub(super) struct Blocks<'a> {
    pub(super) transform: &'a GradientTransform,
    pub(super) view: &'a View,
    /// The output, with one entry per block.
    pub(super) blocks: *mut GradientStatistics,
}

impl Kernel for Blocks<'_> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let Blocks { transform, view, blocks } = self;
        for (index, start) in (0..view.len).step_by(STATISTICS_BLOCK).enumerate() {
            let end = view.len.min(start + STATISTICS_BLOCK);
            let block = Block { transform, view, start, end };
            // SAFETY: the output has an entry for each block, and no other range shares a block.
            unsafe { blocks.add(index).write(isa.vectorize(block)) };
        }
    }
}

struct Block<'a> {
    transform: &'a GradientTransform,
    view: &'a View,
    start: usize,
    end: usize,
}

impl Kernel for Block<'_> {
    type Output = GradientStatistics;

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) -> GradientStatistics {
        let found = self.sums::<I, false>(isa).total();
        match found.max_abs.is_finite() {
            true => found,
            false => self.sums::<I, true>(isa).total(),
        }
    }
}

impl Block<'_> {
    #[inline(always)]
    fn sums<I: Isa, const COUNTS: bool>(&self, isa: I) -> BlockSums<I, COUNTS> {
        let mut sums = BlockSums {
            isa,
            ops: GradientOps::new(isa, self.transform),
            squares: [[[isa.zero_f64(); 2]; 2]; PARTIAL_SUMS / 8],
            non_finite: isa.splat_u32(0),
            max_abs: isa.splat_u32(0),
        };
        with_lanes!(self.view.dtype(Role::Gradient), G => if const { I::FUSED || !G::SPLITS && G::SCALAR_LANES } {
            let gradient = G::pointers(self.view.tensors.streams(Role::Gradient, self.start));
            let accumulator = self.view.f32_at(Role::Accumulator, self.start);
            sums.add_all::<G>(gradient, accumulator, self.end - self.start);
            return sums;
        }, else ());
        if const { I::FUSED } {
            debug_assert!(false, "every gradient format has a lane codec");
            return sums;
        }
        let mut tile = Tile::new();
        let mut start = self.start;
        while start < self.end {
            let n = (self.end - start).min(TILE);
            // SAFETY: the tile lies within the view, whose gradient is given.
            let values = unsafe { decode(isa, self.view, Role::Gradient, start, n, &mut tile) };
            sums.add_all::<f32>(values, self.view.f32_at(Role::Accumulator, start), n);
            start += n;
        }
        sums
    }
}

/// Calls `f` for each pair of vectors that together hold the `PARTIAL_SUMS`. Unrolled by hand: the compiler unrolls a
/// loop with such a long body too late, after it has moved the sums to memory.
#[inline(always)]
fn each_pair<I: Isa>(mut f: impl FnMut(usize)) {
    const { assert!(PARTIAL_SUMS == 32 && matches!(I::LANES, 4 | 8 | 16)) };
    f(0);
    if I::LANES <= 8 {
        f(1);
    }
    if I::LANES <= 4 {
        f(2);
        f(3);
    }
}

/// The sums of a block. A non-finite element stays non-finite when it is unscaled and averaged. So if the maximum
/// magnitude is finite, every element is finite. If the maximum is not finite, a second pass with `COUNTS` counts the
/// non-finite elements.
struct BlockSums<I: Isa, const COUNTS: bool> {
    isa: I,
    ops: GradientOps<I>,
    /// The partial sums, indexed by pair of vectors, vector of the pair, and half of its lanes. Instruction sets with
    /// long vectors leave some unused.
    squares: [[[I::F64; 2]; 2]; PARTIAL_SUMS / 8],
    non_finite: I::U32,
    max_abs: I::U32,
}

impl<I: Isa, const COUNTS: bool> BlockSums<I, COUNTS> {
    /// Adds the next `n` elements of a block. `n` must be a multiple of `PARTIAL_SUMS`, except at the block's end.
    #[inline(always)]
    fn add_all<G: LaneCodec>(&mut self, values: G::Pointers, accumulator: *mut f32, n: usize) {
        let isa = self.isa;
        let mut start = 0;
        while n - start >= PARTIAL_SUMS {
            each_pair::<I>(
                #[inline(always)]
                |pair| {
                    let chunk = Chunk::full(isa, start + pair * 2 * I::LANES);
                    // SAFETY: `PARTIAL_SUMS` elements remain from `start` on, and the chunk is one part of them.
                    unsafe { self.add::<G, _>(pair, chunk, values, accumulator) };
                },
            );
            start += PARTIAL_SUMS;
        }
        each_pair::<I>(
            #[inline(always)]
            |pair| {
                let start = start + pair * 2 * I::LANES;
                if start < n {
                    let chunk = Chunk::partial(isa, start, n - start);
                    // SAFETY: the chunk ends at element `n` at the latest.
                    unsafe { self.add::<G, _>(pair, chunk, values, accumulator) };
                }
            },
        );
    }

    /// # Safety
    /// The chunk lies within the values and, if the transform averages, within the accumulator.
    #[inline(always)]
    unsafe fn add<G: LaneCodec, const FULL: bool>(
        &mut self,
        pair: usize,
        chunk: Chunk<I, FULL>,
        values: G::Pointers,
        accumulator: *mut f32,
    ) {
        let isa = self.isa;
        // SAFETY: by this function's contract.
        let (raw, used): (Pair<I>, Pair<I>) = unsafe {
            let raw = chunk.load::<G>(values, false);
            (raw, chunk.averaged(&self.ops, raw, accumulator))
        };
        // A loss scale of zero turns the zeros beyond the end into NaN.
        let used = chunk.cleared(used);
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
            self.max_abs = isa.max_u32(self.max_abs, magnitude);

            let halves = isa.to_f64(used[vector]);
            for (sum, half) in self.squares[pair][vector].iter_mut().zip(halves) {
                *sum = isa.add_square(*sum, half);
            }
        }
    }

    #[inline(always)]
    fn total(&self) -> GradientStatistics {
        let mut squares = [0.0_f64; PARTIAL_SUMS];
        let mut non_finite = [0_u32; PARTIAL_SUMS];
        let mut max_abs = [0_u32; PARTIAL_SUMS];
        for pair in 0..PARTIAL_SUMS / (2 * I::LANES) {
            for vector in 0..2 {
                for half in 0..2 {
                    let lane = (4 * pair + 2 * vector + half) * (I::LANES / 2);
                    // SAFETY: the lanes of all halves together fill the PARTIAL_SUMS entries.
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
            self.isa.store(max_abs.as_mut_ptr().cast(), self.max_abs);
        }
        let mut width = PARTIAL_SUMS;
        while width > 1 {
            width /= 2;
            for index in 0..width {
                squares[index] += squares[index + width];
            }
        }
        GradientStatistics {
            sum_of_squares: squares[0],
            non_finite: non_finite.iter().map(|&count| u64::from(count)).sum(),
            max_abs: f32::from_bits(max_abs.iter().copied().fold(0, u32::max)),
        }
    }
}
