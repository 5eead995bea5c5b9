//! Tensors between canaries, at a chosen distance from a 64-byte boundary.

use crate::Sample;

/// The number of canaries on either side of a tensor: more than a chunk of any backend.
const GUARD: usize = 72;

/// A tensor that starts at a chosen distance from a 64-byte boundary, between canaries.
#[derive(Clone, Debug)]
pub struct Guarded<T> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Sample> Guarded<T> {
    /// Creates a tensor of these values, `misalignment` elements after a 64-byte boundary.
    pub fn new(values: &[T], misalignment: usize) -> Self {
        let line = 64 / size_of::<T>();
        let room = values.len() + 2 * GUARD + 3 * line;
        let mut memory: Vec<T> = (0..room).map(Self::canary).collect();
        let boundary = (memory.as_ptr() as usize).wrapping_neg() % 64 / size_of::<T>();
        let start = GUARD.next_multiple_of(line) + boundary + misalignment % line;
        memory[start..start + values.len()].copy_from_slice(values);
        Guarded { memory, start, len: values.len() }
    }

    fn canary(place: usize) -> T {
        T::from_low_bits((place as u32).wrapping_mul(0x9e37_79b9) >> 7)
    }

    /// Returns the tensor.
    pub fn tensor(&self) -> &[T] {
        &self.memory[self.start..self.start + self.len]
    }

    /// Returns the tensor.
    pub fn tensor_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..self.start + self.len]
    }

    /// Panics unless the tensor holds these values, bit for bit, and all canaries are unchanged.
    #[track_caller]
    pub fn assert_holds(&self, expected: &[T], what: &str) {
        for (i, (found, expected)) in self.tensor().iter().zip(expected).enumerate() {
            assert!(
                found.comparable() == expected.comparable(),
                "{what}, element {i} of {}: found {found:?}, expected {expected:?}",
                self.len
            );
        }
        for (place, found) in self.memory.iter().enumerate() {
            let inside = (self.start..self.start + self.len).contains(&place);
            assert!(
                inside || found.comparable() == Self::canary(place).comparable(),
                "{what}: wrote outside the tensor, {} elements from its start",
                place as isize - self.start as isize
            );
        }
    }
}
