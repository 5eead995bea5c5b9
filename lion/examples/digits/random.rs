//! SplitMix64, a random number generator with the same numbers on every machine.

pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn seeded(state: u64) -> Self {
        Random { state }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number between -1 and 1, of 25 bits with the sign, which f32 holds exactly.
    pub(crate) fn uniform(&mut self) -> f32 {
        let signed = (self.next() as i64) >> 39;
        signed as f32 / (1 << 24) as f32
    }

    /// Shuffles the items.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for left in (1..=items.len()).rev() {
            let chosen = (self.next() % left as u64) as usize;
            items.swap(left - 1, chosen);
        }
    }
}
