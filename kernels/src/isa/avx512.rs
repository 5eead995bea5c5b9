//! The AVX-512 backends, with F, BW, VL and DQ: sixteen lanes.
//!
//! An [`Extension`] adds instructions that only some of these processors have. Each extension is a backend of its own.

#[cfg(target_arch = "x86")]
use core::arch::x86::*;
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;
use core::marker::PhantomData;

use super::{Isa, Kernel, primitives};

pub(crate) mod bf16;

/// Proof of AVX-512 F, BW, VL and DQ, and of the extension's instructions.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<E = ()>(PhantomData<E>);

/// What a backend has in addition to AVX-512 F, BW, VL and DQ. `()` has nothing.
pub(crate) trait Extension: Copy {
    /// Runs a kernel in a separate function, compiled with all instructions of the backend.
    fn vectorize<K: Kernel>(isa: Avx512<Self>, kernel: K) -> K::Output;

    /// Implements [`Isa::round_to_bf16`].
    #[inline(always)]
    fn round_to_bf16(_: Avx512<Self>, _: [__m512; 2], _split: bool) -> Option<__m512i> {
        None
    }
}

impl Extension for () {
    #[inline(always)]
    fn vectorize<K: Kernel>(isa: Avx512, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
        #[inline(never)]
        fn enter<K: Kernel>(isa: Avx512, kernel: K) -> K::Output {
            kernel.call(isa)
        }
        // SAFETY: the token proves the features.
        unsafe { enter(isa, kernel) }
    }
}

/// The table of `fixupimm`: its result for each class of operand, one nibble per class from the lowest. Quiet and
/// signalling NaN: the quiet NaN (2). Zero: +0 (8). One: +1 (A). -inf: -1 (9). +inf: +1 (A). Negative: -1 (9).
/// Positive: +1 (A).
const SIGN_OF_CLASS: i32 = 0xa9a9_a822_u32 as i32;

impl<E: Extension> Isa for Avx512<E> {
    const LANES: usize = 16;

    type F32 = __m512;
    type U32 = __m512i;
    type U16 = __m256i;
    type F64 = __m512d;
    type Mask = __mmask16;

    #[inline(always)]
    unsafe fn new_unchecked() -> Self {
        Avx512(PhantomData)
    }

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        E::vectorize(self, kernel)
    }

    #[inline(always)]
    fn round_to_bf16(self, value: [__m512; 2], split: bool) -> Option<__m512i> {
        E::round_to_bf16(self, value, split)
    }

    #[inline(always)]
    unsafe fn load_partial<V: Copy>(self, from: *const V, bytes: usize) -> V {
        const { assert!(size_of::<V>() <= size_of::<__m512i>()) };
        // SAFETY: the token proves AVX-512 BW. The masked load reads only bytes that the contract makes readable. The
        // vector's first bytes form a V, for which every bit pattern is valid.
        unsafe {
            let vector = _mm512_maskz_loadu_epi8(first(bytes), from.cast());
            core::mem::transmute_copy(&vector)
        }
    }

    #[inline(always)]
    unsafe fn store_partial<V: Copy>(self, to: *mut V, bytes: usize, value: V) {
        // SAFETY: the token proves AVX-512 BW. The masked load stays within `value`. The masked store writes only bytes
        // that the contract makes writable.
        unsafe {
            let vector = _mm512_maskz_loadu_epi8(first(size_of::<V>()), (&raw const value).cast());
            _mm512_mask_storeu_epi8(to.cast(), first(bytes), vector);
        }
    }

    primitives! {
        splat(value: f32) -> __m512 = _mm512_set1_ps(value);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        less(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
        is_nan(a: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
        any_nan(a: __m512, b: __m512) -> bool = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, b) != 0;
        // `fixupimm` computes the sign in one instruction. The product with the sign is exact, so the fused operation
        // rounds once, as a separate subtraction would.
        sub_signed(value: __m512, magnitude: __m512, direction: __m512) -> __m512 = {
            let sign = _mm512_fixupimm_ps::<0>(direction, direction, _mm512_set1_epi32(SIGN_OF_CLASS));
            _mm512_fnmadd_ps(magnitude, sign, value)
        };

        to_bits(a: __m512) -> __m512i = _mm512_castps_si512(a);
        from_bits(a: __m512i) -> __m512 = _mm512_castsi512_ps(a);

        splat_u32(value: u32) -> __m512i = _mm512_set1_epi32(value as i32);
        add_u32(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        mul_u32(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi32(a, b);
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        xor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
        shl16(a: __m512i) -> __m512i = _mm512_slli_epi32::<16>(a);
        shr16(a: __m512i) -> __m512i = _mm512_srli_epi32::<16>(a);
        shl2(a: __m512i) -> __m512i = _mm512_slli_epi32::<2>(a);
        sar2(a: __m512i) -> __m512i = _mm512_srai_epi32::<2>(a);
        shr15(a: __m512i) -> __m512i = _mm512_srli_epi32::<15>(a);
        sar16(a: __m512i) -> __m512i = _mm512_srai_epi32::<16>(a);
        max_u32(a: __m512i, b: __m512i) -> __m512i = _mm512_max_epu32(a, b);
        largest_lanes(of: [__m512i; 4]) -> __m512i = {
            let [a, b, c, d] = of;
            let ab = _mm512_max_epu32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let cd = _mm512_max_epu32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            let abcd = _mm512_max_epu32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
            let halves = _mm512_max_epu32(abcd, _mm512_shuffle_i32x4::<0b01_00_11_10>(abcd, abcd));
            _mm512_max_epu32(halves, _mm512_shuffle_i32x4::<0b10_11_00_01>(halves, halves))
        };
        saturating_sub_halves(a: __m512i, b: __m512i) -> __m512i = _mm512_subs_epu16(a, b);
        less_u31(a: __m512i, b: __m512i) -> __mmask16 = _mm512_cmplt_epu32_mask(a, b);
        select(mask: __mmask16, yes: __m512i, no: __m512i) -> __m512i = _mm512_mask_mov_epi32(no, mask, yes);

        widen(a: __m256i) -> __m512i = _mm512_cvtepu16_epi32(a);
        narrow(a: __m512i) -> __m256i = _mm512_cvtepi32_epi16(a);
        scaled_bytes(bytes: __m256i, factor: f32, split: bool) -> [__m512; 2] = {
            let (integers, first_factor) = if split {
                // The even element of two moves to the upper end of their lane: 2^24 times its value.
                let both = _mm512_cvtepi16_epi32(bytes);
                ([_mm512_slli_epi32::<24>(both), _mm512_srai_epi32::<8>(both)], factor / 16_777_216.0)
            } else {
                let [first, second] = [_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes)];
                ([_mm512_cvtepi8_epi32(first), _mm512_cvtepi8_epi32(second)], factor)
            };
            let [first, second] = [_mm512_cvtepi32_ps(integers[0]), _mm512_cvtepi32_ps(integers[1])];
            [_mm512_mul_ps(first, _mm512_set1_ps(first_factor)), _mm512_mul_ps(second, _mm512_set1_ps(factor))]
        };
        round_to_bytes(values: [__m512; 4], split: bool) -> __m512i = {
            let [a, b, c, d] = values;
            let ab = _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
            let cd = _mm512_packs_epi32(_mm512_cvtps_epi32(c), _mm512_cvtps_epi32(d));
            // Each quarter has four bytes of each vector.
            let bytes = _mm512_packs_epi16(ab, cd);
            if split {
                let alternate = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
                let bytes = _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(alternate));
                _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), bytes)
            } else {
                let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
                _mm512_permutexvar_epi32(order, bytes)
            }
        };
        half_to_f32(a: __m256i) -> __m512 = _mm512_cvtph_ps(a);
        f32_to_half(a: __m512) -> __m256i = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a);

        zero_f64() -> __m512d = _mm512_setzero_pd();
        to_f64(a: __m512) -> [__m512d; 2] = [
            _mm512_cvtps_pd(_mm512_castps512_ps256(a)),
            _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(a)),
        ];
        add_square(sum: __m512d, a: __m512d) -> __m512d = _mm512_fmadd_pd(a, a, sum);
    }
}

/// Returns the mask of the first `bytes` of 64 bytes.
#[inline(always)]
fn first(bytes: usize) -> __mmask64 {
    if bytes < 64 { (1 << bytes) - 1 } else { !0 }
}
