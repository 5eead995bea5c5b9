//! The digest of a parameter, by which ranks find out whether their copies are equal.

use half::{bf16, f16};
use lion::TensorRef;

/// Partial digests, one for each element of a group: a vector of them is computed at a time.
const LANES: usize = 16;

/// The digest of a parameter: partial digests of every sixteenth element, folded. All NaNs are equal, as their payload is not part of the result.
/// A tensor in another format than f32, f16 and bf16 has the digest of no elements; parameters have none.
pub(crate) fn digest(tensor: TensorRef<'_>) -> u64 {
    let canonical = |bits: u32, is_nan: bool| if is_nan { u32::MAX } else { bits };
    if let Some(values) = tensor.as_slice::<f32>() {
        of_words(values, |value| canonical(value.to_bits(), value.is_nan()))
    } else if let Some(values) = tensor.as_slice::<bf16>() {
        of_words(values, |value| canonical(value.to_bits().into(), value.is_nan()))
    } else if let Some(values) = tensor.as_slice::<f16>() {
        of_words(values, |value| canonical(value.to_bits().into(), value.is_nan()))
    } else {
        of_words::<u8>(&[], |_| 0)
    }
}

fn of_words<T: Copy>(values: &[T], word: impl Fn(T) -> u32) -> u64 {
    let mut lanes = [0x811c_9dc5_u32; LANES];
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for (lane, &value) in lanes.iter_mut().zip(group) {
            *lane = mixed(*lane, word(value));
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = mixed(*lane, word(value));
    }
    lanes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &lane| {
        let hash = (hash ^ u64::from(lane)).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^ hash >> 29
    })
}

/// A multiplication carries upwards, and the shift brings the upper half down: no bit of an element stays in its place.
fn mixed(lane: u32, word: u32) -> u32 {
    let product = (lane ^ word).wrapping_mul(0x9e37_79b1);
    product ^ product >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_of_any_element_changes_the_digest() {
        for len in [0, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..len).map(|index| index as f32 - 7.5).collect();
            let before = digest((&values).into());
            for index in 0..len {
                for bit in 0..32 {
                    let mut changed = values.clone();
                    changed[index] = f32::from_bits(values[index].to_bits() ^ 1 << bit);
                    assert_ne!(digest((&changed).into()), before, "bit {bit} of element {index} of {len}");
                }
            }
        }
        // Signs of two elements of one lane.
        let mut values = vec![1.0_f32; 64];
        let before = digest((&values).into());
        (values[5], values[21]) = (-1.0, -1.0);
        assert_ne!(digest((&values).into()), before);
        // Elements that change places, also within a lane.
        let mut values: Vec<bf16> = (0..64_u8).map(|index| bf16::from_f32(index.into())).collect();
        let before = digest((&values).into());
        for (one, other) in [(0, 1), (0, 16), (3, 51)] {
            values.swap(one, other);
            assert_ne!(digest((&values).into()), before);
            values.swap(one, other);
        }
    }

    #[test]
    fn all_nans_are_equal() {
        let of = |bits: u32| digest((&[1.0, f32::from_bits(bits)]).into());
        assert_eq!(of(0x7fc0_0000), of(0xff80_0001));
        let of = |bits: u16| digest((&[f16::from_bits(bits)]).into());
        assert_eq!(of(0x7e00), of(0xfc01));
        assert_ne!(of(0x7e00), of(0x7c00));
    }
}
