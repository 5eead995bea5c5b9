//! The reference of the narrow formats: the exact split, 8-bit momentum, stochastic rounding.

use alloc::vec::Vec;

use half::bf16;

use super::nearest_even;

/// Splits an f32 into the nearest bfloat16, ties away from zero, and the 16-bit remainder.
pub fn split(value: f32) -> (bf16, i16) {
    if value.is_nan() {
        return (bf16::from_bits(0x7fc0), 0);
    }
    let bits = value.to_bits();
    let (upper, lower) = ((bits / 65536) as u16, bits % 65536);
    // From 0x8000 on, the next upper half is nearer, and the remainder counts down from it.
    match lower < 0x8000 {
        true => (bf16::from_bits(upper), lower as i16),
        false => (bf16::from_bits(upper.wrapping_add(1)), (lower as i32 - 65536) as i16),
    }
}

/// Joins the two halves of a split f32.
pub fn join(high: bf16, low: i16) -> f32 {
    let bits = i64::from(high.to_bits()) * 65536 + i64::from(low);
    f32::from_bits(bits.rem_euclid(1 << 32) as u32)
}

/// The number of elements that share a scale in 8-bit momentum.
const BLOCK: usize = 64;
/// Three quarters of the bits of 1.
const OFFSET: u32 = 0x2fa0_0000;

/// Encodes values in 8 bits. Returns the codes and the scales.
pub fn q8_encode(values: &[f32]) -> (Vec<i8>, Vec<f32>) {
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for block in values.chunks(BLOCK) {
        let mut scale = 0.0_f32;
        for value in block {
            if value.is_finite() && value.abs() > scale {
                scale = value.abs();
            }
        }
        if scale < f32::MIN_POSITIVE {
            scale = 0.0;
        }
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        for value in block {
            if !value.is_finite() {
                codes.push(-128);
                continue;
            }
            let share = value.abs() * inverse;
            let root = f32::from_bits(share.to_bits() / 4 + OFFSET);
            let code = nearest_even(f64::from(root * 127.0)).min(127) as i8;
            codes.push(if value.is_sign_negative() { -code } else { code });
        }
        scales.push(scale);
    }
    (codes, scales)
}

/// Decodes 8-bit codes and their scales.
pub fn q8_decode(codes: &[i8], scales: &[f32]) -> Vec<f32> {
    let mut values = Vec::new();
    for (index, &code) in codes.iter().enumerate() {
        let scale = scales[index / BLOCK];
        let root = f32::from(code.unsigned_abs()) * (1.0 / 127.0);
        let share = f32::from_bits(root.to_bits().saturating_sub(OFFSET) * 4);
        values.push(match code {
            -128 => f32::NAN,
            0 => 0.0,
            1.. => share * scale,
            _ => -(share * scale),
        });
    }
    values
}

/// Rounds a value up or down to bfloat16, by the random bits of element `index` of a variable in a step.
pub fn stochastic(value: f32, seed: u64, name: &str, step: u64, index: u64) -> bf16 {
    if value.is_nan() {
        return bf16::from_bits(0x7fc0);
    }
    if value.is_infinite() {
        return bf16::from_bits((value.to_bits() / 65536) as u16);
    }
    let random = random_bits(seed, name, step, index);
    bf16::from_bits(((u64::from(value.to_bits()) + u64::from(random)) / 65536) as u16)
}

/// Returns the random bits of element `index` of a variable in a step.
pub fn random_bits(seed: u64, name: &str, step: u64, index: u64) -> u16 {
    let mut name_hash = 14_695_981_039_346_656_037_u64;
    for byte in name.bytes() {
        name_hash = (name_hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211);
    }
    let key = mix(mix(mix(seed) ^ name_hash) ^ step);
    let hash = hash32(index / 2, (key % (1 << 32)) as u32, (key >> 32) as u32);
    (if index.is_multiple_of(2) { hash % 65536 } else { hash / 65536 }) as u16
}

fn mix(z: u64) -> u64 {
    let z = (z ^ (z / (1 << 30))).wrapping_mul(0xBF58476D1CE4E5B9);
    let z = (z ^ (z / (1 << 27))).wrapping_mul(0x94D049BB133111EB);
    z ^ (z / (1 << 31))
}

fn hash32(q: u64, k0: u32, k1: u32) -> u32 {
    let mut x = q as u32;
    x ^= k0;
    x ^= ((q >> 32) as u32).wrapping_mul(0x9E3779B9);
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB352D);
    x ^= x >> 15;
    x ^= k1;
    x = x.wrapping_mul(0x846CA68B);
    x ^ x >> 16
}
