//! Directions of a step in two bits an element: 0 for a zero, 1 for a one, 3 for minus one, 2 for NaN.

use half::bf16;

/// Elements that travel together: parts of a variable begin at multiples of it, as stochastic rounding needs.
pub(crate) const GROUP: usize = 64;
/// Bytes of a group.
pub(crate) const GROUP_BYTES: usize = GROUP / 4;

/// The bit of bf16 that 1, -1 and NaN have, and 0 has not; and the one that only NaN has.
const NOT_ZERO: u16 = 0x0080;
const IS_NAN: u16 = 0x0040;

/// Packs directions, four to a byte, the first in the lowest bits. Bytes beyond them become 0.
pub(crate) fn pack(directions: &[bf16], to: &mut [u8]) {
    let code = |direction: &bf16| {
        let bits = direction.to_bits();
        let is_nan = u8::from(bits & IS_NAN != 0);
        let (moves, down) = (u8::from(bits & NOT_ZERO != 0), (bits >> 15) as u8);
        (moves & !is_nan) | (down | is_nan) << 1
    };
    let (fours, rest) = directions.as_chunks::<4>();
    let (bytes, end) = to.split_at_mut(fours.len().min(to.len()));
    for (byte, [a, b, c, d]) in bytes.iter_mut().zip(fours) {
        *byte = code(a) | code(b) << 2 | code(c) << 4 | code(d) << 6;
    }
    end.fill(0);
    if let Some(byte) = end.first_mut() {
        *byte = rest.iter().rev().fold(0, |byte, direction| byte << 2 | code(direction));
    }
}

/// Unpacks as many directions as `to` has places.
pub(crate) fn unpack(bytes: &[u8], to: &mut [bf16]) {
    const VALUES: [bf16; 4] = [bf16::ZERO, bf16::ONE, bf16::NAN, bf16::NEG_ONE];
    const TABLE: [[bf16; 4]; 256] = {
        let (mut table, mut byte) = ([[bf16::ZERO; 4]; 256], 0);
        while byte < 256 {
            table[byte] = [VALUES[byte & 3], VALUES[byte >> 2 & 3], VALUES[byte >> 4 & 3], VALUES[byte >> 6]];
            byte += 1;
        }
        table
    };
    for (to, &byte) in to.chunks_mut(4).zip(bytes) {
        let values = &TABLE[usize::from(byte)];
        to.copy_from_slice(&values[..to.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_direction_comes_back() {
        let values = [bf16::ZERO, bf16::ONE, bf16::NEG_ONE, bf16::NAN];
        for len in 0..=9 {
            for number in 0..4_usize.pow(len.min(5)) {
                let directions: Vec<bf16> =
                    (0..len).map(|place| values[(number >> (2 * (place % 5))) & 3]).collect();
                let (mut bytes, mut back) = ([0xff; 3], vec![bf16::INFINITY; len as usize]);
                pack(&directions, &mut bytes);
                unpack(&bytes, &mut back);
                let bits = |values: &[bf16]| values.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&back), bits(&directions));
                assert!(bytes[(len as usize).div_ceil(4)..].iter().all(|&byte| byte == 0));
            }
        }
        // Any NaN is one.
        for nan in [0x7fc0, 0xffc0, 0x7fff] {
            let (mut byte, mut back) = ([0], [bf16::ZERO]);
            pack(&[bf16::from_bits(nan)], &mut byte);
            unpack(&byte, &mut back);
            assert!(byte == [2] && back[0].is_nan());
        }
    }
}
