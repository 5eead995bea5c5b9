//! How a fused kernel loads a format to f32 lanes and stores from them, in registers.
//!
//! Only formats that fused kernels are compiled for have this: the table [`with_lanes`] lists them. It gives the bits of
//! the format's own loops ([`Format`](crate::format::Format)): the tests hold both to the reference.

use half::{bf16, f16};

use super::chunk::{Chunk, both};
use crate::format::split::{self as split_format, Split};
use crate::format::{Format, MAX_STREAMS};
use crate::isa::Isa;

/// Two vectors: the `2 * LANES` consecutive elements that a kernel handles at a time.
pub(crate) type Pair<I> = [<I as Isa>::F32; 2];

/// Loads and stores of a format, each of whose streams has an entry for each element.
pub(crate) trait LaneCodec: Format {
    /// Where the streams of a tensor lie.
    type Place: Copy;

    /// Whether the format has a cheaper order of lanes: even elements in the first vector of a pair, odd ones in the
    /// second. A kernel may ask for the split order only if every stream that it touches has it.
    const SPLITS: bool = false;

    /// Whether lanes of plain Rust are as fast as the format's own loops.
    const SCALAR_LANES: bool = false;

    /// The place of a tensor whose streams begin at these addresses.
    fn place(streams: [*mut u8; MAX_STREAMS]) -> Self::Place;

    /// Asks for what a chunk a little later will need of a tensor.
    fn prefetch<I: Isa, const FULL: bool>(chunk: Chunk<I, FULL>, tensor: Self::Place);

    /// # Safety
    /// The chunk's elements are readable.
    unsafe fn load<I: Isa, const FULL: bool>(
        chunk: Chunk<I, FULL>,
        from: Self::Place,
        split: bool,
    ) -> Pair<I>;

    /// # Safety
    /// The chunk's elements are writable.
    unsafe fn store<I: Isa, const FULL: bool>(
        chunk: Chunk<I, FULL>,
        to: Self::Place,
        split: bool,
        value: Pair<I>,
    );

    /// The values that storing and loading gives.
    fn rounded<I: Isa>(isa: I, value: Pair<I>) -> Pair<I>;

    /// Stores values that [`rounded`](Self::rounded) gave, in the order of the elements.
    ///
    /// # Safety
    /// The chunk's elements are writable.
    #[inline(always)]
    unsafe fn store_rounded<I: Isa, const FULL: bool>(
        chunk: Chunk<I, FULL>,
        to: Self::Place,
        value: Pair<I>,
    ) {
        // SAFETY: by this function's contract.
        unsafe { Self::store(chunk, to, false, value) }
    }
}

/// The place of a tensor of one stream.
macro_rules! one_stream {
    () => {
        type Place = *mut Self;

        #[inline(always)]
        fn place([first, _]: [*mut u8; MAX_STREAMS]) -> *mut Self {
            first.cast()
        }

        #[inline(always)]
        fn prefetch<I: Isa, const FULL: bool>(chunk: Chunk<I, FULL>, tensor: *mut Self) {
            chunk.prefetch(tensor);
        }
    };
}

/// Evaluates an expression with a type alias bound to the [`LaneCodec`] of a dtype, or another if it has none.
macro_rules! with_lanes {
    ($dtype:expr, $F:ident => $body:expr, else $other:expr) => {
        match $dtype {
            $crate::format::Dtype::F32 => {
                type $F = f32;
                $body
            }
            $crate::format::Dtype::F16 => {
                type $F = half::f16;
                $body
            }
            $crate::format::Dtype::BF16 => {
                type $F = half::bf16;
                $body
            }
            #[allow(unreachable_patterns)]
            _ => $other,
        }
    };
}
pub(super) use with_lanes;

impl LaneCodec for f32 {
    const SCALAR_LANES: bool = true;
    one_stream!();

    #[inline(always)]
    unsafe fn load<I: Isa, const FULL: bool>(chunk: Chunk<I, FULL>, from: *mut Self, _: bool) -> Pair<I> {
        let (extent, from) = chunk.within(from);
        // SAFETY: the caller's elements are two vectors.
        both!(i => unsafe { extent.read::<I::F32>(from.cast(), i) })
    }

    #[inline(always)]
    unsafe fn store<I: Isa, const FULL: bool>(chunk: Chunk<I, FULL>, to: *mut Self, _: bool, value: Pair<I>) {
        let (extent, to) = chunk.within(to);
        // SAFETY: the caller's elements are two vectors.
        both!(i => unsafe { extent.write::<I::F32>(to.cast(), i, value[i]) });
    }

    #[inline(always)]
    fn rounded<I: Isa>(_: I, value: Pair<I>) -> Pair<I> {
        value
    }
}

impl LaneCodec for f16 {
    one_stream!();

    #[inline(always)]
    unsafe fn load<I: Isa, const FULL: bool>(chunk: Chunk<I, FULL>, from: *mut Self, _: bool) -> Pair<I> {
        let (extent, from) = chunk.within(from);
        // SAFETY: the caller's elements are two vectors of raw 16-bit values.
        both!(i => extent.isa.half_to_f32(unsafe { extent.read::<I::U16>(from.cast(), i) }))
    }

    #[inline(always)]
    unsafe fn store<I: Isa, const FULL: bool>(chunk: Chunk<I, FULL>, to: *mut Self, _: bool, value: Pair<I>) {
        let (extent, to) = chunk.within(to);
        // SAFETY: the caller's elements are two vectors of raw 16-bit values.
        both!(i => unsafe { extent.write::<I::U16>(to.cast(), i, extent.isa.f32_to_half(value[i])) });
    }

    #[inline(always)]
    fn rounded<I: Isa>(isa: I, value: Pair<I>) -> Pair<I> {
        both!(i => isa.half_to_f32(isa.f32_to_half(value[i])))
    }
}

const UPPER: u32 = 0xffff_0000;
const LOWER: u32 = 0x0000_ffff;

/// The rounded bfloat16s in the upper 16 bits of each lane; the lower ones are not defined. See
/// [the format](crate::format) for the arithmetic. NaNs are repaired in a branch, because most tensors have none.
#[inline(always)]
fn round<I: Isa>(isa: I, value: Pair<I>) -> [I::U32; 2] {
    let bits = both!(i => isa.to_bits(value[i]));
    let odd = both!(i => isa.and(isa.shr16(bits[i]), isa.splat_u32(1)));
    let rounded = both!(i => isa.add_u32(isa.add_u32(bits[i], isa.splat_u32(0x7fff)), odd[i]));
    if !isa.any_nan(value[0], value[1]) {
        return rounded;
    }
    let quiet = both!(i => isa.or(bits[i], isa.splat_u32(0x0040_0000)));
    both!(i => isa.select(isa.is_nan(value[i]), quiet[i], rounded[i]))
}

/// As [`round`], but by random numbers below 2^16, one for each lane. An infinity has nothing below the last place that
/// could carry.
#[inline(always)]
fn round_by<I: Isa>(isa: I, value: Pair<I>, draws: [I::U32; 2]) -> [I::U32; 2] {
    let bits = both!(i => isa.add_u32(isa.to_bits(value[i]), draws[i]));
    if !isa.any_nan(value[0], value[1]) {
        return bits;
    }
    both!(i => isa.select(isa.is_nan(value[i]), isa.splat_u32(split_format::NAN), bits[i]))
}

/// Stores bfloat16s that are in the upper halves of lanes.
///
/// # Safety
/// The chunk's elements are writable.
#[inline(always)]
unsafe fn store_upper<I: Isa, const FULL: bool>(
    chunk: Chunk<I, FULL>,
    to: *mut bf16,
    split: bool,
    [first, second]: [I::U32; 2],
) {
    let (extent, to) = chunk.within(to);
    let isa = extent.isa;
    if split {
        let neighbours = isa.or(isa.shr16(first), isa.and(second, isa.splat_u32(UPPER)));
        // SAFETY: the caller's elements are one vector of 32-bit lanes.
        unsafe { extent.write(to.cast(), 0, neighbours) };
    } else {
        let halves = [isa.narrow(isa.shr16(first)), isa.narrow(isa.shr16(second))];
        // SAFETY: the caller's elements are two vectors of raw 16-bit values.
        unsafe { both!(i => extent.write(to.cast(), i, halves[i])) };
    }
}

/// The 16-bit entries of a chunk, in the upper halves of lanes; the lower ones are zero.
///
/// # Safety
/// The chunk's entries are readable.
#[inline(always)]
unsafe fn load_upper<I: Isa, E, const FULL: bool>(
    chunk: Chunk<I, FULL>,
    from: *mut E,
    split: bool,
) -> [I::U32; 2] {
    let (extent, from) = chunk.within(from);
    let isa = extent.isa;
    if !split {
        // SAFETY: the caller's entries are two vectors of raw 16-bit values.
        return both!(i => isa.shl16(isa.widen(unsafe { extent.read(from.cast(), i) })));
    }
    // SAFETY: the caller's entries are one vector of 32-bit lanes.
    let neighbours: I::U32 = unsafe { extent.read(from.cast(), 0) };
    [isa.shl16(neighbours), isa.and(neighbours, isa.splat_u32(UPPER))]
}

/// Two neighbours in memory are one 32-bit lane, so a pair of vectors splits into even and odd elements with a shift and
/// a mask. Widening in the order of the elements would cost a shuffle too.
impl LaneCodec for bf16 {
    const SPLITS: bool = true;
    const SCALAR_LANES: bool = true;
    one_stream!();

    #[inline(always)]
    unsafe fn load<I: Isa, const FULL: bool>(chunk: Chunk<I, FULL>, from: *mut Self, split: bool) -> Pair<I> {
        // SAFETY: by this function's contract.
        let upper = unsafe { load_upper(chunk, from, split) };
        both!(i => chunk.isa.from_bits(upper[i]))
    }

    #[inline(always)]
    unsafe fn store<I: Isa, const FULL: bool>(
        chunk: Chunk<I, FULL>,
        to: *mut Self,
        split: bool,
        value: Pair<I>,
    ) {
        // SAFETY: by this function's contract.
        unsafe { store_upper(chunk, to, split, round(chunk.isa, value)) }
    }

    #[inline(always)]
    fn rounded<I: Isa>(isa: I, value: Pair<I>) -> Pair<I> {
        let rounded = round(isa, value);
        both!(i => isa.from_bits(isa.and(rounded[i], isa.splat_u32(UPPER))))
    }

    #[inline(always)]
    unsafe fn store_rounded<I: Isa, const FULL: bool>(chunk: Chunk<I, FULL>, to: *mut Self, value: Pair<I>) {
        // SAFETY: by this function's contract.
        unsafe { store_upper(chunk, to, false, both!(i => chunk.isa.to_bits(value[i]))) }
    }
}

/// Stores values as bfloat16, rounded by random numbers below 2^16, one for each lane.
///
/// # Safety
/// The chunk's elements are writable.
#[inline(always)]
pub(super) unsafe fn store_by<I: Isa, const FULL: bool>(
    chunk: Chunk<I, FULL>,
    to: *mut bf16,
    split: bool,
    value: Pair<I>,
    draws: [I::U32; 2],
) {
    // SAFETY: by this function's contract.
    unsafe { store_upper(chunk, to, split, round_by(chunk.isa, value, draws)) }
}

/// The high halves lie as bfloat16s do, and so do the low ones.
impl LaneCodec for Split {
    type Place = (*mut bf16, *mut i16);
    const SPLITS: bool = true;

    #[inline(always)]
    fn place([high, low]: [*mut u8; MAX_STREAMS]) -> Self::Place {
        (high.cast(), low.cast())
    }

    #[inline(always)]
    fn prefetch<I: Isa, const FULL: bool>(chunk: Chunk<I, FULL>, (high, low): Self::Place) {
        chunk.prefetch(high);
        chunk.prefetch(low);
    }

    #[inline(always)]
    unsafe fn load<I: Isa, const FULL: bool>(
        chunk: Chunk<I, FULL>,
        (high, low): Self::Place,
        split: bool,
    ) -> Pair<I> {
        let isa = chunk.isa;
        // SAFETY: by this function's contract.
        let (high, low) = unsafe { (load_upper(chunk, high, split), load_upper(chunk, low, split)) };
        both!(i => isa.from_bits(isa.add_u32(high[i], isa.sar16(low[i]))))
    }

    #[inline(always)]
    unsafe fn store<I: Isa, const FULL: bool>(
        chunk: Chunk<I, FULL>,
        (high, low): Self::Place,
        split: bool,
        value: Pair<I>,
    ) {
        let isa = chunk.isa;
        let value = Self::rounded(isa, value);
        let bits = both!(i => isa.to_bits(value[i]));
        let rounded = both!(i => isa.add_u32(bits[i], isa.splat_u32(split_format::HALF)));
        let (extent, at) = chunk.within(low);
        // SAFETY: by this function's contract. The low halves are one vector of 32-bit lanes, or two of 16-bit ones.
        unsafe {
            store_upper(chunk, high, split, rounded);
            if split {
                let neighbours = isa.or(isa.and(bits[0], isa.splat_u32(LOWER)), isa.shl16(bits[1]));
                extent.write(at.cast(), 0, neighbours);
            } else {
                let halves = both!(i => isa.narrow(isa.and(bits[i], isa.splat_u32(LOWER))));
                both!(i => extent.write(at.cast(), i, halves[i]));
            }
        }
    }

    /// All but a NaN is stored exactly.
    #[inline(always)]
    fn rounded<I: Isa>(isa: I, value: Pair<I>) -> Pair<I> {
        if !isa.any_nan(value[0], value[1]) {
            return value;
        }
        both!(i => {
            let nan = isa.splat_u32(split_format::NAN);
            isa.from_bits(isa.select(isa.is_nan(value[i]), nan, isa.to_bits(value[i])))
        })
    }
}
