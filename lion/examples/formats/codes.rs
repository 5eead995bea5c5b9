//! Other 8-bit codes of momentum, to compare with the library's. Each has blocks of 64, scaled by the largest magnitude.

/// A code: its name, and its rounding of a number in [-1, 1].
pub(crate) struct Code {
    pub(crate) name: &'static str,
    kept: fn(f32) -> f32,
}

/// The codes of other optimizers.
pub(crate) const CODES: [Code; 3] = [
    Code { name: "linear", kept: |share| (share * 127.0).round_ties_even() / 127.0 },
    Code { name: "fp8 e4m3", kept: |share| e4m3(share * 448.0) / 448.0 },
    Code { name: "softsign", kept: softsign },
];

impl Code {
    /// Rounds values to the code.
    pub(crate) fn kept(&self, values: &mut [f32]) {
        for block in values.chunks_mut(64) {
            let scale = block.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
            if scale > 0.0 {
                block.iter_mut().for_each(|value| *value = (self.kept)(*value / scale) * scale);
            }
        }
    }
}

/// Returns the nearest number with four exponent and three fraction bits.
fn e4m3(value: f32) -> f32 {
    if value == 0.0 {
        return 0.0;
    }
    // The smallest exponent of normal numbers is -6. Below it the spacing is constant.
    let exponent = value.abs().log2().floor().max(-6.0);
    let distance = (exponent - 3.0).exp2();
    (value / distance).round_ties_even() * distance
}

/// Linear in `2 x / (1 + |x|)`, which is finer near zero.
fn softsign(share: f32) -> f32 {
    let bent = (2.0 * share / (1.0 + share.abs()) * 127.0).round_ties_even() / 127.0;
    bent / (2.0 - bent.abs())
}
