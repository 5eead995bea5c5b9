//! AVX-512 BF16: one instruction rounds two vectors to bfloat16.
//!
//! `vcvtne2ps2bf16` rounds to nearest even and makes NaNs quiet, as the format requires, whatever the floating-point
//! state. But it reads subnormal numbers as zeros. So vectors with subnormal numbers are left to integer rounding.

#[cfg(target_arch = "x86")]
use core::arch::x86::*;
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

use super::{Avx512, Extension};
use crate::isa::Kernel;

/// AVX-512 BF16.
#[derive(Clone, Copy)]
pub(crate) struct Bf16;

/// The class of subnormal numbers in `fpclass`.
const SUBNORMAL: i32 = 0x20;

/// The index of each 16-bit lane before the two halves of a vector are interleaved.
static INTERLEAVED: [u16; 32] = {
    let mut indices = [0; 32];
    let mut lane = 0;
    while lane < 32 {
        indices[lane] = (lane / 2 + lane % 2 * 16) as u16;
        lane += 1;
    }
    indices
};

impl Extension for Bf16 {
    #[inline(always)]
    fn vectorize<K: Kernel>(isa: Avx512<Self>, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
        #[inline(never)]
        fn enter<K: Kernel>(isa: Avx512<Bf16>, kernel: K) -> K::Output {
            kernel.call(isa)
        }
        // SAFETY: the token proves the features.
        unsafe { enter(isa, kernel) }
    }

    #[inline(always)]
    fn round_to_bf16(_: Avx512<Self>, [first, second]: [__m512; 2], split: bool) -> Option<__m512i> {
        // SAFETY: the token proves AVX-512 F, BW, DQ and BF16, and `INTERLEAVED` has the size of a vector.
        unsafe {
            if _mm512_fpclass_ps_mask::<SUBNORMAL>(first) | _mm512_fpclass_ps_mask::<SUBNORMAL>(second) != 0 {
                return None;
            }
            let rounded: __m512i = core::mem::transmute(_mm512_cvtne2ps_pbh(second, first));
            if !split {
                return Some(rounded);
            }
            let order = _mm512_loadu_si512((&raw const INTERLEAVED).cast());
            Some(_mm512_permutexvar_epi16(order, rounded))
        }
    }
}
