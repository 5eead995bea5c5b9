//! The AVX2 backend, with FMA and F16C: eight lanes.

#[cfg(target_arch = "x86")]
use core::arch::x86::*;
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

use super::{Isa, Kernel, primitives};

/// Proof of AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Isa for Avx2 {
    const LANES: usize = 8;

    type F32 = __m256;
    type U32 = __m256i;
    type U16 = __m128i;
    type F64 = __m256d;
    type Mask = __m256i;

    #[inline(always)]
    unsafe fn new_unchecked() -> Self {
        Avx2(())
    }

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline(never)]
        fn enter<K: Kernel>(isa: Avx2, kernel: K) -> K::Output {
            kernel.call(isa)
        }
        // SAFETY: the token proves the features.
        unsafe { enter(self, kernel) }
    }

    primitives! {
        splat(value: f32) -> __m256 = _mm256_set1_ps(value);
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        less(a: __m256, b: __m256) -> __m256i = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
        is_nan(a: __m256) -> __m256i = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, a));
        any_nan(a: __m256, b: __m256) -> bool = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, b)) != 0;
        sub_signed(value: __m256, magnitude: __m256, direction: __m256) -> __m256 = {
            let sign = _mm256_and_ps(direction, _mm256_set1_ps(-0.0));
            let moves = _mm256_cmp_ps::<_CMP_NEQ_UQ>(direction, _mm256_setzero_ps());
            let number = _mm256_and_ps(_mm256_or_ps(magnitude, sign), moves);
            // The unordered mask is all ones, the bits of a quiet NaN.
            let change = _mm256_or_ps(number, _mm256_cmp_ps::<_CMP_UNORD_Q>(direction, direction));
            _mm256_sub_ps(value, change)
        };

        to_bits(a: __m256) -> __m256i = _mm256_castps_si256(a);
        from_bits(a: __m256i) -> __m256 = _mm256_castsi256_ps(a);

        splat_u32(value: u32) -> __m256i = _mm256_set1_epi32(value as i32);
        add_u32(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        mul_u32(a: __m256i, b: __m256i) -> __m256i = _mm256_mullo_epi32(a, b);
        and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        xor(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256(a, b);
        shl16(a: __m256i) -> __m256i = _mm256_slli_epi32::<16>(a);
        shr16(a: __m256i) -> __m256i = _mm256_srli_epi32::<16>(a);
        shl2(a: __m256i) -> __m256i = _mm256_slli_epi32::<2>(a);
        sar2(a: __m256i) -> __m256i = _mm256_srai_epi32::<2>(a);
        shr15(a: __m256i) -> __m256i = _mm256_srli_epi32::<15>(a);
        sar16(a: __m256i) -> __m256i = _mm256_srai_epi32::<16>(a);
        max_u32(a: __m256i, b: __m256i) -> __m256i = _mm256_max_epu32(a, b);
        largest_lanes(of: [__m256i; 4]) -> __m256i = {
            let [a, b, c, d] = of;
            let ab = _mm256_max_epu32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let cd = _mm256_max_epu32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            let abcd = _mm256_max_epu32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
            _mm256_max_epu32(abcd, _mm256_permute2x128_si256::<1>(abcd, abcd))
        };
        saturating_sub_halves(a: __m256i, b: __m256i) -> __m256i = _mm256_subs_epu16(a, b);
        less_u31(a: __m256i, b: __m256i) -> __m256i = _mm256_cmpgt_epi32(b, a);
        select(mask: __m256i, yes: __m256i, no: __m256i) -> __m256i = _mm256_blendv_epi8(no, yes, mask);

        widen(a: __m128i) -> __m256i = _mm256_cvtepu16_epi32(a);
        narrow(a: __m256i) -> __m128i = {
            _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a))
        };
        scaled_bytes(bytes: __m128i, factor: f32, split: bool) -> [__m256; 2] = {
            let (integers, first_factor) = if split {
                // The even element of two moves to the upper end of their lane: 2^24 times its value.
                let both = _mm256_cvtepi16_epi32(bytes);
                ([_mm256_slli_epi32::<24>(both), _mm256_srai_epi32::<8>(both)], factor / 16_777_216.0)
            } else {
                ([_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes))], factor)
            };
            let [first, second] = [_mm256_cvtepi32_ps(integers[0]), _mm256_cvtepi32_ps(integers[1])];
            [_mm256_mul_ps(first, _mm256_set1_ps(first_factor)), _mm256_mul_ps(second, _mm256_set1_ps(factor))]
        };
        round_to_bytes(values: [__m256; 4], split: bool) -> __m256i = {
            let [a, b, c, d] = values;
            let ab = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
            let cd = _mm256_packs_epi32(_mm256_cvtps_epi32(c), _mm256_cvtps_epi32(d));
            // Each half has four bytes of each vector.
            let bytes = _mm256_packs_epi16(ab, cd);
            if split {
                let alternate = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
                let bytes = _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(alternate));
                _mm256_permute4x64_epi64::<0b11_01_10_00>(bytes)
            } else {
                _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
            }
        };
        half_to_f32(a: __m128i) -> __m256 = _mm256_cvtph_ps(a);
        f32_to_half(a: __m256) -> __m128i = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a);

        zero_f64() -> __m256d = _mm256_setzero_pd();
        to_f64(a: __m256) -> [__m256d; 2] = [
            _mm256_cvtps_pd(_mm256_castps256_ps128(a)),
            _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(a)),
        ];
        add_square(sum: __m256d, a: __m256d) -> __m256d = _mm256_fmadd_pd(a, a, sum);
    }
}
