//! How a fused kernel loads a format to f32 lanes and stores from them, in registers.
//!
//! Only formats that fused kernels are compiled for have this: the table [`with_lanes`] lists them. It gives the bits of
//! the format's own loops ([`Format`](crate::format::Format)): the tests hold both to the reference.

use half::{bf16, f16};

use super::chunk::{Extent, both};
use crate::format::Format;
use crate::isa::Isa;

/// Two vectors: the `2 * LANES` consecutive elements that a kernel handles at a time.
pub(crate) type Pair<I> = [<I as Isa>::F32; 2];

/// Loads and stores of a format of one stream.
pub(crate) trait LaneCodec: Format + Copy {
    /// Whether the format has a cheaper order of lanes: even elements in the first vector of a pair, odd ones in the
    /// second. A kernel may ask for the split order only if every stream that it touches has it.
    const SPLITS: bool = false;

    /// Whether lanes of plain Rust are as fast as the format's own loops.
    const SCALAR_LANES: bool = false;

    /// # Safety
    /// The extent's elements are readable.
    unsafe fn load<I: Isa, const FULL: bool>(
        extent: Extent<I, FULL>,
        from: *const Self,
        split: bool,
    ) -> Pair<I>;

    /// # Safety
    /// The extent's elements are writable.
    unsafe fn store<I: Isa, const FULL: bool>(
        extent: Extent<I, FULL>,
        to: *mut Self,
        split: bool,
        value: Pair<I>,
    );

    /// The values that storing and loading gives.
    fn rounded<I: Isa>(isa: I, value: Pair<I>) -> Pair<I>;

    /// Stores values that [`rounded`](Self::rounded) gave, in the order of the elements.
    ///
    /// # Safety
    /// The extent's elements are writable.
    #[inline(always)]
    unsafe fn store_rounded<I: Isa, const FULL: bool>(
        extent: Extent<I, FULL>,
        to: *mut Self,
        value: Pair<I>,
    ) {
        // SAFETY: by this function's contract.
        unsafe { Self::store(extent, to, false, value) }
    }
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

    #[inline(always)]
    unsafe fn load<I: Isa, const FULL: bool>(extent: Extent<I, FULL>, from: *const Self, _: bool) -> Pair<I> {
        // SAFETY: the caller's elements are two vectors.
        both!(i => unsafe { extent.read::<I::F32>(from.cast(), i) })
    }

    #[inline(always)]
    unsafe fn store<I: Isa, const FULL: bool>(
        extent: Extent<I, FULL>,
        to: *mut Self,
        _: bool,
        value: Pair<I>,
    ) {
        // SAFETY: the caller's elements are two vectors.
        both!(i => unsafe { extent.write::<I::F32>(to.cast(), i, value[i]) });
    }

    #[inline(always)]
    fn rounded<I: Isa>(_: I, value: Pair<I>) -> Pair<I> {
        value
    }
}

impl LaneCodec for f16 {
    #[inline(always)]
    unsafe fn load<I: Isa, const FULL: bool>(extent: Extent<I, FULL>, from: *const Self, _: bool) -> Pair<I> {
        // SAFETY: the caller's elements are two vectors of raw 16-bit values.
        both!(i => extent.isa.half_to_f32(unsafe { extent.read::<I::U16>(from.cast(), i) }))
    }

    #[inline(always)]
    unsafe fn store<I: Isa, const FULL: bool>(
        extent: Extent<I, FULL>,
        to: *mut Self,
        _: bool,
        value: Pair<I>,
    ) {
        // SAFETY: the caller's elements are two vectors of raw 16-bit values.
        both!(i => unsafe { extent.write::<I::U16>(to.cast(), i, extent.isa.f32_to_half(value[i])) });
    }

    #[inline(always)]
    fn rounded<I: Isa>(isa: I, value: Pair<I>) -> Pair<I> {
        both!(i => isa.half_to_f32(isa.f32_to_half(value[i])))
    }
}

const UPPER: u32 = 0xffff_0000;

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

/// Two neighbours in memory are one 32-bit lane, so a pair of vectors splits into even and odd elements with a shift and
/// a mask. Widening in the order of the elements would cost a shuffle too.
impl LaneCodec for bf16 {
    const SPLITS: bool = true;
    const SCALAR_LANES: bool = true;

    #[inline(always)]
    unsafe fn load<I: Isa, const FULL: bool>(
        extent: Extent<I, FULL>,
        from: *const Self,
        split: bool,
    ) -> Pair<I> {
        let isa = extent.isa;
        if !split {
            // SAFETY: the caller's elements are two vectors of raw 16-bit values.
            return both!(i => isa.from_bits(isa.shl16(isa.widen(unsafe { extent.read(from.cast(), i) }))));
        }
        // SAFETY: the caller's elements are one vector of 32-bit lanes.
        let neighbours: I::U32 = unsafe { extent.read(from.cast(), 0) };
        let (even, odd) = (isa.shl16(neighbours), isa.and(neighbours, isa.splat_u32(UPPER)));
        [isa.from_bits(even), isa.from_bits(odd)]
    }

    #[inline(always)]
    unsafe fn store<I: Isa, const FULL: bool>(
        extent: Extent<I, FULL>,
        to: *mut Self,
        split: bool,
        value: Pair<I>,
    ) {
        let isa = extent.isa;
        let [first, second] = round(isa, value);
        if split {
            let neighbours = isa.or(isa.shr16(first), isa.and(second, isa.splat_u32(UPPER)));
            // SAFETY: the caller's elements are one vector of 32-bit lanes.
            unsafe { extent.write(to.cast(), 0, neighbours) };
        } else {
            // SAFETY: by this function's contract.
            unsafe { Self::store_rounded(extent, to, [isa.from_bits(first), isa.from_bits(second)]) };
        }
    }

    #[inline(always)]
    fn rounded<I: Isa>(isa: I, value: Pair<I>) -> Pair<I> {
        let rounded = round(isa, value);
        both!(i => isa.from_bits(isa.and(rounded[i], isa.splat_u32(UPPER))))
    }

    #[inline(always)]
    unsafe fn store_rounded<I: Isa, const FULL: bool>(
        extent: Extent<I, FULL>,
        to: *mut Self,
        value: Pair<I>,
    ) {
        let isa = extent.isa;
        let halves = both!(i => isa.narrow(isa.shr16(isa.to_bits(value[i]))));
        // SAFETY: the caller's elements are two vectors of raw 16-bit values.
        unsafe { both!(i => extent.write(to.cast(), i, halves[i])) };
    }
}
