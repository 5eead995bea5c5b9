//! Lane codecs: load a format's elements into f32 lanes and store them from lanes, in registers.
//!
//! Only formats of fused kernels have a lane codec; the macro [`with_lanes`] lists them. A codec gives the same bits as
//! the format's loops ([`Format`](crate::format::Format)). The tests compare both with the reference.

use half::{bf16, f16};

use super::chunk::{Chunk, both};
use crate::format::split::{self as split_format, Split};
use crate::format::{Format, MAX_STREAMS};
use crate::isa::Isa;

/// Two vectors: the `2 * LANES` consecutive elements of a chunk.
pub(crate) type Pair<I> = [<I as Isa>::F32; 2];

/// Loads and stores of a format whose streams have one entry per element.
pub(crate) trait LaneCodec: Format {
    /// The stream addresses of a tensor.
    type Pointers: Copy;

    /// Whether the format supports the split order, which is cheaper: even elements in the first vector of a pair, odd
    /// elements in the second. A kernel may use the split order only if every stream that it accesses supports it.
    const SPLITS: bool = false;

    /// Whether scalar lanes are as fast as the format's loops.
    const SCALAR_LANES: bool = false;

    /// Casts the addresses of a tensor's streams.
    fn pointers(streams: [*mut u8; MAX_STREAMS]) -> Self::Pointers;

    /// Prefetches a tensor's elements for a later chunk.
    fn prefetch<I: Isa, const FULL: bool>(chunk: Chunk<I, FULL>, tensor: Self::Pointers);

    /// # Safety
    /// The chunk's elements are readable.
    unsafe fn load<I: Isa, const FULL: bool>(
        chunk: Chunk<I, FULL>,
        from: Self::Pointers,
        split: bool,
    ) -> Pair<I>;

    /// # Safety
    /// The chunk's elements are writable.
    unsafe fn store<I: Isa, const FULL: bool>(
        chunk: Chunk<I, FULL>,
        to: Self::Pointers,
        split: bool,
        value: Pair<I>,
    );

    /// Returns the values that a store followed by a load gives.
    fn rounded<I: Isa>(isa: I, value: Pair<I>) -> Pair<I>;

    /// Stores values that [`rounded`](Self::rounded) returned, in the order of the elements.
    ///
    /// # Safety
    /// The chunk's elements are writable.
    #[inline(always)]
    unsafe fn store_rounded<I: Isa, const FULL: bool>(
        chunk: Chunk<I, FULL>,
        to: Self::Pointers,
        value: Pair<I>,
    ) {
        // SAFETY: by this function's contract.
        unsafe { Self::store(chunk, to, false, value) }
    }
}

/// The items of [`LaneCodec`] that all one-stream formats share.
macro_rules! single_stream {
    () => {
        type Pointers = *mut Self;

        #[inline(always)]
        fn pointers([first, _]: [*mut u8; MAX_STREAMS]) -> *mut Self {
            first.cast()
        }

        #[inline(always)]
        fn prefetch<I: Isa, const FULL: bool>(chunk: Chunk<I, FULL>, tensor: *mut Self) {
            chunk.prefetch(tensor);
        }
    };
}

/// Evaluates an expression with a type alias bound to the [`LaneCodec`] of a dtype, or the `else` expression if the
/// dtype has none.
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
    single_stream!();

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
    single_stream!();

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

/// Rounds to bfloat16, in the upper 16 bits of each lane. The lower bits are undefined. For the arithmetic see
/// [the format](crate::format). A branch handles NaNs, because most tensors have none.
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

/// Like [`round`], but stochastic, by random numbers below 2^16, one per lane. An infinity stays: its low bits are
/// zero, so no random number carries.
#[inline(always)]
fn round_stochastic<I: Isa>(isa: I, value: Pair<I>, draws: [I::U32; 2]) -> [I::U32; 2] {
    let bits = both!(i => isa.add_u32(isa.to_bits(value[i]), draws[i]));
    if !isa.any_nan(value[0], value[1]) {
        return bits;
    }
    both!(i => isa.select(isa.is_nan(value[i]), isa.splat_u32(split_format::NAN), bits[i]))
}

/// Stores the upper halves of lanes as bfloat16.
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

/// Loads the 16-bit entries of a chunk into the upper halves of lanes. The lower halves are zero.
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

/// Two neighbours in memory form one 32-bit lane. So a shift and a mask split a chunk into even and odd elements.
/// Widening in the order of the elements would cost an additional shuffle.
impl LaneCodec for bf16 {
    const SPLITS: bool = true;
    const SCALAR_LANES: bool = true;
    single_stream!();

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
        // SAFETY: by this function's contract. The elements are one vector of 32-bit lanes.
        unsafe {
            match chunk.isa.round_to_bf16(value, split) {
                Some(neighbours) => {
                    let (extent, to) = chunk.within(to);
                    extent.write(to.cast(), 0, neighbours);
                }
                None => store_upper(chunk, to, split, round(chunk.isa, value)),
            }
        }
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

/// Stores values as bfloat16, rounded stochastically by random numbers below 2^16, one per lane.
///
/// # Safety
/// The chunk's elements are writable.
#[inline(always)]
pub(super) unsafe fn store_stochastic<I: Isa, const FULL: bool>(
    chunk: Chunk<I, FULL>,
    to: *mut bf16,
    split: bool,
    value: Pair<I>,
    draws: [I::U32; 2],
) {
    // SAFETY: by this function's contract.
    unsafe { store_upper(chunk, to, split, round_stochastic(chunk.isa, value, draws)) }
}

/// Both streams use the layout of bfloat16.
impl LaneCodec for Split {
    type Pointers = (*mut bf16, *mut i16);
    const SPLITS: bool = true;

    #[inline(always)]
    fn pointers([high, low]: [*mut u8; MAX_STREAMS]) -> Self::Pointers {
        (high.cast(), low.cast())
    }

    #[inline(always)]
    fn prefetch<I: Isa, const FULL: bool>(chunk: Chunk<I, FULL>, (high, low): Self::Pointers) {
        chunk.prefetch(high);
        chunk.prefetch(low);
    }

    #[inline(always)]
    unsafe fn load<I: Isa, const FULL: bool>(
        chunk: Chunk<I, FULL>,
        (high, low): Self::Pointers,
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
        (high, low): Self::Pointers,
        split: bool,
        value: Pair<I>,
    ) {
        let isa = chunk.isa;
        let value = Self::rounded(isa, value);
        let bits = both!(i => isa.to_bits(value[i]));
        let rounded = both!(i => isa.add_u32(bits[i], isa.splat_u32(split_format::HALF)));
        let (extent, at) = chunk.within(low);
        // SAFETY: by this function's contract. The low halves are one vector of 32-bit lanes, or two of 16-bit lanes.
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

    /// Every value except a NaN is stored exactly.
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
