//! The NEON backend, for every 64-bit Arm processor: four lanes.

use core::arch::aarch64::*;

use super::{Isa, Kernel, primitives};

/// Proof of NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

impl Isa for Neon {
    const LANES: usize = 4;

    type F32 = float32x4_t;
    type U32 = uint32x4_t;
    type U16 = uint16x4_t;
    type F64 = float64x2_t;
    type Mask = uint32x4_t;

    #[inline(always)]
    unsafe fn new_unchecked() -> Self {
        Neon(())
    }

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "neon")]
        #[inline(never)]
        fn enter<K: Kernel>(isa: Neon, kernel: K) -> K::Output {
            kernel.call(isa)
        }
        // SAFETY: the token proves the feature.
        unsafe { enter(self, kernel) }
    }

    primitives! {
        splat(value: f32) -> float32x4_t = vdupq_n_f32(value);
        add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
        sub(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32(a, b);
        mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        div(a: float32x4_t, b: float32x4_t) -> float32x4_t = vdivq_f32(a, b);
        less(a: float32x4_t, b: float32x4_t) -> uint32x4_t = vcltq_f32(a, b);
        is_nan(a: float32x4_t) -> uint32x4_t = vmvnq_u32(vceqq_f32(a, a));
        any_nan(a: float32x4_t, b: float32x4_t) -> bool =
            vminvq_u32(vandq_u32(vceqq_f32(a, a), vceqq_f32(b, b))) == 0;
        sub_signed(value: float32x4_t, magnitude: float32x4_t, direction: float32x4_t) -> float32x4_t = {
            let moving = vbslq_f32(vdupq_n_u32(0x8000_0000), direction, magnitude);
            let still = vbicq_u32(vreinterpretq_u32_f32(moving), vceqzq_f32(direction));
            // If the direction is NaN, the result is all ones, the bits of a quiet NaN.
            let change = vornq_u32(still, vceqq_f32(direction, direction));
            vsubq_f32(value, vreinterpretq_f32_u32(change))
        };

        to_bits(a: float32x4_t) -> uint32x4_t = vreinterpretq_u32_f32(a);
        from_bits(a: uint32x4_t) -> float32x4_t = vreinterpretq_f32_u32(a);

        splat_u32(value: u32) -> uint32x4_t = vdupq_n_u32(value);
        add_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vaddq_u32(a, b);
        mul_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vmulq_u32(a, b);
        and(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vandq_u32(a, b);
        or(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vorrq_u32(a, b);
        xor(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = veorq_u32(a, b);
        shl16(a: uint32x4_t) -> uint32x4_t = vshlq_n_u32::<16>(a);
        shr16(a: uint32x4_t) -> uint32x4_t = vshrq_n_u32::<16>(a);
        shl2(a: uint32x4_t) -> uint32x4_t = vshlq_n_u32::<2>(a);
        sar2(a: uint32x4_t) -> uint32x4_t = {
            vreinterpretq_u32_s32(vshrq_n_s32::<2>(vreinterpretq_s32_u32(a)))
        };
        shr15(a: uint32x4_t) -> uint32x4_t = vshrq_n_u32::<15>(a);
        sar16(a: uint32x4_t) -> uint32x4_t = {
            vreinterpretq_u32_s32(vshrq_n_s32::<16>(vreinterpretq_s32_u32(a)))
        };
        max_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vmaxq_u32(a, b);
        largest_lanes(of: [uint32x4_t; 4]) -> uint32x4_t = {
            let [a, b, c, d] = of;
            vpmaxq_u32(vpmaxq_u32(a, b), vpmaxq_u32(c, d))
        };
        saturating_sub_halves(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = {
            vreinterpretq_u32_u16(vqsubq_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b)))
        };
        less_u31(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vcltq_u32(a, b);
        select(mask: uint32x4_t, yes: uint32x4_t, no: uint32x4_t) -> uint32x4_t = vbslq_u32(mask, yes, no);

        widen(a: uint16x4_t) -> uint32x4_t = vmovl_u16(a);
        narrow(a: uint32x4_t) -> uint16x4_t = vmovn_u32(a);
        scaled_bytes(bytes: uint16x4_t, factor: f32, split: bool) -> [float32x4_t; 2] = {
            let words = vmovl_s8(vreinterpret_s8_u16(bytes));
            let [first, second] = [vget_low_s16(words), vget_high_s16(words)];
            let [first, second] =
                if split { [vuzp1_s16(first, second), vuzp2_s16(first, second)] } else { [first, second] };
            let [first, second] = [vcvtq_f32_s32(vmovl_s16(first)), vcvtq_f32_s32(vmovl_s16(second))];
            [vmulq_n_f32(first, factor), vmulq_n_f32(second, factor)]
        };
        round_to_bytes(values: [float32x4_t; 4], split: bool) -> uint32x4_t = {
            let [a, b, c, d] = values;
            let [a, b] = [vmovn_s32(vcvtnq_s32_f32(a)), vmovn_s32(vcvtnq_s32_f32(b))];
            let [c, d] = [vmovn_s32(vcvtnq_s32_f32(c)), vmovn_s32(vcvtnq_s32_f32(d))];
            let [ab, cd] = if split {
                [vcombine_s16(vzip1_s16(a, b), vzip2_s16(a, b)), vcombine_s16(vzip1_s16(c, d), vzip2_s16(c, d))]
            } else {
                [vcombine_s16(a, b), vcombine_s16(c, d)]
            };
            vreinterpretq_u32_s8(vcombine_s8(vmovn_s16(ab), vmovn_s16(cd)))
        };
        half_to_f32(a: uint16x4_t) -> float32x4_t = vcvt_f32_f16(vreinterpret_f16_u16(a));
        f32_to_half(a: float32x4_t) -> uint16x4_t = vreinterpret_u16_f16(vcvt_f16_f32(a));

        zero_f64() -> float64x2_t = vdupq_n_f64(0.0);
        to_f64(a: float32x4_t) -> [float64x2_t; 2] = [vcvt_f64_f32(vget_low_f32(a)), vcvt_high_f64_f32(a)];
        add_square(sum: float64x2_t, a: float64x2_t) -> float64x2_t = vfmaq_f64(sum, a, a);
    }
}
