//! The SIMD abstraction: f32 vectors and about forty operations, implemented once per instruction set.
//!
//! One token type per instruction set implements [`Isa`], in `isa/`. A token is proof that the processor has the
//! instructions; only [`crate::dispatch`] creates tokens. So every operation except loads and stores is a safe
//! function. No operation knows a storage format: 16-bit operations move raw bits, or use the set's conversions
//! of IEEE halves and bfloat16.
//!
//! Two rules make the bits equal on every set:
//!
//! - Each operation rounds once, to nearest even. It keeps subnormals and fuses nothing.
//! - A lane's result depends only on that lane's operands.
//!
//! Both rules assume the IEEE default floating-point state, which [`crate::float_state`] sets while a kernel runs.
//!
//! Everything between these operations and [`Isa::vectorize`] is `#[inline(always)]`. A call that is not inlined would
//! be compiled without the instruction set, and would pass vectors through memory.

use core::mem::MaybeUninit;

use half::f16;

pub(crate) mod prefetch;
pub(crate) mod scalar;

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
pub(crate) mod avx2;
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

static LANE_NUMBERS: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// A function that is compiled once per instruction set. `call` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;

    fn call<I: Isa>(self, isa: I) -> Self::Output;
}

/// An instruction set, as a token that proves its availability.
pub(crate) trait Isa: Copy {
    /// The number of lanes of `F32`, `U32` and `U16`: 4, 8 or 16.
    const LANES: usize;

    /// Whether fused kernels are compiled for the set. Without vector registers, they are slower than tiles.
    const FUSED: bool = true;

    type F32: Copy;
    type U32: Copy;
    /// `LANES` raw 16-bit values.
    type U16: Copy;
    /// `LANES / 2` lanes of f64.
    type F64: Copy;
    /// A truth value per lane of `F32` or `U32`.
    type Mask: Copy;

    /// # Safety
    /// The processor and the operating system support the token's instruction set.
    unsafe fn new_unchecked() -> Self;

    /// Runs a kernel in a separate function, compiled with this instruction set.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, value: f32) -> Self::F32;
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a < b`; false if either is NaN.
    fn less(self, a: Self::F32, b: Self::F32) -> Self::Mask;
    fn is_nan(self, a: Self::F32) -> Self::Mask;
    /// Returns whether any lane of either vector is NaN.
    fn any_nan(self, a: Self::F32, b: Self::F32) -> bool;
    /// `value - magnitude * sign(direction)`. The sign of +0 and -0 is +0, and the sign of a NaN is NaN. `magnitude` is
    /// finite and not negative. The product is exact, so every implementation rounds once.
    fn sub_signed(self, value: Self::F32, magnitude: Self::F32, direction: Self::F32) -> Self::F32;

    fn to_bits(self, a: Self::F32) -> Self::U32;
    // `self` is the token, not the value.
    #[allow(clippy::wrong_self_convention)]
    fn from_bits(self, a: Self::U32) -> Self::F32;

    fn splat_u32(self, value: u32) -> Self::U32;
    fn add_u32(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// The low 32 bits of the product.
    fn mul_u32(self, a: Self::U32, b: Self::U32) -> Self::U32;
    fn and(self, a: Self::U32, b: Self::U32) -> Self::U32;
    fn or(self, a: Self::U32, b: Self::U32) -> Self::U32;
    fn xor(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// Shifts left by 16.
    fn shl16(self, a: Self::U32) -> Self::U32;
    /// Shifts right by 16, logically.
    fn shr16(self, a: Self::U32) -> Self::U32;
    /// Shifts left by 2.
    fn shl2(self, a: Self::U32) -> Self::U32;
    /// Shifts right by 2, arithmetically.
    fn sar2(self, a: Self::U32) -> Self::U32;
    /// Shifts right by 15, logically.
    fn shr15(self, a: Self::U32) -> Self::U32;
    /// Shifts right by 16, arithmetically.
    fn sar16(self, a: Self::U32) -> Self::U32;
    fn max_u32(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// Returns the largest lane of each of four vectors, in the first four lanes. The other lanes are copies of them.
    fn largest_lanes(self, of: [Self::U32; 4]) -> Self::U32;
    /// Subtracts each 16-bit half from the same half. A negative difference becomes 0.
    fn saturating_sub_halves(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// `a < b` for values below 2^31.
    fn less_u31(self, a: Self::U32, b: Self::U32) -> Self::Mask;
    fn select(self, mask: Self::Mask, yes: Self::U32, no: Self::U32) -> Self::U32;

    /// Zero-extends 16-bit lanes.
    fn widen(self, a: Self::U16) -> Self::U32;
    /// Narrows to the low 16 bits. Requires that the high bits are zero.
    fn narrow(self, a: Self::U32) -> Self::U16;
    /// Returns the 16-bit halves of 32-bit lanes, in memory order.
    #[inline(always)]
    fn halves(self, a: Self::U32) -> [Self::U16; 2] {
        let halves = (&raw const a).cast::<Self::U16>();
        // SAFETY: `a` has the size of two such vectors, and every bit pattern is valid.
        unsafe { [self.load(halves), self.load(halves.add(1))] }
    }
    /// Returns the products of `2 * LANES` signed bytes and a factor, whose quotient by 2^24 is a normal number. If
    /// `split` is set, the first vector has the even elements and the second the odd ones.
    fn scaled_bytes(self, bytes: Self::U16, factor: f32, split: bool) -> [Self::F32; 2];
    /// Rounds to integers, to nearest even, as `4 * LANES` signed bytes in memory order. The values are between -128 and
    /// 127. If `split` is set, the even and the odd vectors have the even and the odd elements of each two vectors.
    fn round_to_bytes(self, values: [Self::F32; 4], split: bool) -> Self::U32;
    /// Converts IEEE binary16 to f32, exactly.
    fn half_to_f32(self, a: Self::U16) -> Self::F32;
    /// Converts f32 to IEEE binary16. Rounds to nearest even, keeps subnormals, makes NaNs quiet.
    fn f32_to_half(self, a: Self::F32) -> Self::U16;

    /// Rounds two vectors to bfloat16, in memory order: to nearest even, with subnormals and quiet NaNs. If `split` is
    /// set, the first vector has the even elements and the second the odd ones. Returns `None` if the set has no such
    /// instruction, or if the instruction does not give these bits for a lane.
    #[inline(always)]
    fn round_to_bf16(self, _: [Self::F32; 2], _split: bool) -> Option<Self::U32> {
        None
    }

    /// Returns the first `LANES` numbers.
    #[inline(always)]
    fn first_of(self, numbers: &[u32; 16]) -> Self::U32 {
        // SAFETY: there is a number for each lane of the longest vectors.
        unsafe { self.load(numbers.as_ptr().cast()) }
    }
    /// Returns the index of each lane, from 0.
    #[inline(always)]
    fn lane_numbers(self) -> Self::U32 {
        self.first_of(&LANE_NUMBERS)
    }

    fn zero_f64(self) -> Self::F64;
    /// Converts the low and the high half of the lanes to f64, exactly.
    fn to_f64(self, a: Self::F32) -> [Self::F64; 2];
    /// `sum + a * a`. Requires that `a` was converted from f32: its square is then exact, so a fused operation gives
    /// the same bits.
    fn add_square(self, sum: Self::F64, a: Self::F64) -> Self::F64;

    /// Converts IEEE halves to f32, up to the length of the shorter slice.
    #[inline(always)]
    fn halves_to_f32(self, from: &[f16], to: &mut [f32]) {
        let len = from.len().min(to.len());
        let (from, to) = (from.as_ptr(), to.as_mut_ptr());
        let mut start = 0;
        // SAFETY: the full vectors and the last partial one lie within the first `len` elements of both slices.
        unsafe {
            while len - start >= Self::LANES {
                let half = self.load::<Self::U16>(from.add(start).cast());
                self.store(to.add(start).cast(), self.half_to_f32(half));
                start += Self::LANES;
            }
            if start < len {
                let half = self.load_partial::<Self::U16>(from.add(start).cast(), 2 * (len - start));
                self.store_partial(to.add(start).cast(), 4 * (len - start), self.half_to_f32(half));
            }
        }
    }

    /// Rounds f32 to IEEE halves, up to the length of the shorter slice.
    #[inline(always)]
    fn f32_to_halves(self, from: &[f32], to: &mut [f16]) {
        let len = from.len().min(to.len());
        let (from, to) = (from.as_ptr(), to.as_mut_ptr());
        let mut start = 0;
        // SAFETY: as in `halves_to_f32`.
        unsafe {
            while len - start >= Self::LANES {
                let single = self.load::<Self::F32>(from.add(start).cast());
                self.store(to.add(start).cast(), self.f32_to_half(single));
                start += Self::LANES;
            }
            if start < len {
                let single = self.load_partial::<Self::F32>(from.add(start).cast(), 4 * (len - start));
                self.store_partial(to.add(start).cast(), 2 * (len - start), self.f32_to_half(single));
            }
        }
    }

    /// Loads a vector (`F32`, `U32` or `U16`) at any alignment.
    ///
    /// # Safety
    /// The bytes of one `V` at `from` are readable.
    #[inline(always)]
    unsafe fn load<V: Copy>(self, from: *const V) -> V {
        // SAFETY: readable by this function's contract; vectors have no invalid bit patterns.
        unsafe { from.read_unaligned() }
    }

    /// Stores a vector (`F32`, `U32`, `U16` or `F64`) at any alignment.
    ///
    /// # Safety
    /// The bytes of one `V` at `to` are writable.
    #[inline(always)]
    unsafe fn store<V: Copy>(self, to: *mut V, value: V) {
        // SAFETY: writable by this function's contract.
        unsafe { to.write_unaligned(value) }
    }

    /// Loads the first `bytes` bytes of a vector (`F32`, `U32` or `U16`); the others are zero.
    ///
    /// # Safety
    /// `bytes` bytes at `from` are readable, and `bytes` is at most the size of a `V`.
    #[inline(always)]
    unsafe fn load_partial<V: Copy>(self, from: *const V, bytes: usize) -> V {
        const { assert!(size_of::<V>() < 64, "vectors of 64 bytes need masked loads") };
        let mut whole = MaybeUninit::<V>::zeroed();
        // SAFETY: readable by this function's contract, and `whole` is large enough. All its bytes are initialised, and
        // vectors have no invalid bit patterns.
        unsafe {
            copy(from.cast(), whole.as_mut_ptr().cast(), bytes);
            whole.assume_init()
        }
    }

    /// Stores the first `bytes` bytes of a vector (`F32`, `U32` or `U16`).
    ///
    /// # Safety
    /// `bytes` bytes at `to` are writable, and `bytes` is at most the size of a `V`.
    #[inline(always)]
    unsafe fn store_partial<V: Copy>(self, to: *mut V, bytes: usize, value: V) {
        const { assert!(size_of::<V>() < 64, "vectors of 64 bytes need masked stores") };
        // SAFETY: writable by this function's contract, and `value` has at least as many bytes.
        unsafe { copy((&raw const value).cast(), to.cast(), bytes) }
    }
}

/// Copies fewer than 64 bytes, in one piece per set bit of `bytes`. This takes a few moves; `copy_nonoverlapping` of a
/// variable length would call the C library.
///
/// # Safety
/// `bytes` bytes are readable at `from` and writable at `to`.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    let mut done = 0;
    macro_rules! piece {
        ($($length:literal)+) => {
            $(if bytes & $length != 0 {
                // SAFETY: the pieces are consecutive, and have `bytes` bytes together.
                unsafe { core::ptr::copy_nonoverlapping(from.add(done), to.add(done), $length) };
                done += $length;
            })+
        };
    }
    piece!(32 16 8 4 2 1);
    debug_assert_eq!(done, bytes);
}

/// Implements operations of [`Isa`] from a table of rows `name(operand: type, …) -> result = expression;`. An
/// expression uses plain Rust or intrinsics without pointers.
#[cfg_attr(
    not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")),
    allow(unused_macros)
)]
macro_rules! primitives {
    ($($name:ident($($operand:ident: $type:ty),*) -> $result:ty = $body:expr;)+) => {
        $(
            #[inline(always)]
            fn $name(self, $($operand: $type),*) -> $result {
                // SAFETY: the token proves that the processor has the instruction set of this file. Intrinsics without
                // pointers require nothing else.
                #[allow(unused_unsafe)]
                unsafe { $body }
            }
        )+
    };
}
use primitives;
