//! The scalar reference: the specification as plain loops, one element at a time.
//!
//! It shares no code with the kernels, not even the conversions. It is written for review, not for speed. The tests
//! compare every kernel with it, bit for bit. A conversion to a 16-bit format divides by the spacing of that format's
//! numbers and rounds the quotient to an integer, in f64, where the division is exact.

// The formulas follow the specification's notation.
#![allow(clippy::assign_op_pattern, clippy::eq_op)]

mod narrow;
mod sum;

use half::{bf16, f16};

pub use narrow::{join, q8_decode, q8_encode, random_bits, split, stochastic};
pub use sum::sum;

/// A number type with exact conversion to f32 and rounding from f32.
pub trait Float: Copy {
    /// Returns the exact value.
    fn widen(self) -> f32;
    /// Returns the nearest number of the format, ties to even.
    fn round(value: f32) -> Self;
}

impl Float for f32 {
    fn widen(self) -> f32 {
        self
    }

    fn round(value: f32) -> Self {
        value
    }
}

impl Float for f16 {
    fn widen(self) -> f32 {
        decode(self.to_bits(), 10, 5)
    }

    #[inline]
    fn round(value: f32) -> Self {
        f16::from_bits(encode(value, 10, 5))
    }
}

impl Float for bf16 {
    fn widen(self) -> f32 {
        decode(self.to_bits(), 7, 8)
    }

    #[inline]
    fn round(value: f32) -> Self {
        bf16::from_bits(encode(value, 7, 8))
    }
}

/// Implements [`Float`] for integers: the nearest integer, ties to even, clamped to the range; 0 for NaN.
macro_rules! integer {
    ($($type:ty)+) => {$(
        impl Float for $type {
            fn widen(self) -> f32 {
                self as f32
            }

            fn round(value: f32) -> Self {
                let magnitude = nearest_even(f64::from(value.abs()).min(65536.0));
                let nearest = if value < 0.0 { -magnitude } else { magnitude };
                if value.is_nan() { 0 } else { nearest.clamp(<$type>::MIN.into(), <$type>::MAX.into()) as $type }
            }
        }
    )+};
}
integer! { i8 i16 }

/// Returns 2^n, for n from -1022 to 1023.
fn power_of_two(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

fn decode(bits: u16, fraction_bits: i32, exponent_bits: i32) -> f32 {
    let bias = (1 << (exponent_bits - 1)) - 1;
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let exponent = i32::from(bits >> fraction_bits) & ((1 << exponent_bits) - 1);
    let fraction = f64::from(bits & ((1 << fraction_bits) - 1)) * power_of_two(-fraction_bits);
    let magnitude = if exponent == (1 << exponent_bits) - 1 {
        if fraction == 0.0 { f64::INFINITY } else { f64::NAN }
    } else if exponent == 0 {
        fraction * power_of_two(1 - bias)
    } else {
        (1.0 + fraction) * power_of_two(exponent - bias)
    };
    (sign * magnitude) as f32
}

#[inline]
fn encode(value: f32, fraction_bits: i32, exponent_bits: i32) -> u16 {
    let bias = (1 << (exponent_bits - 1)) - 1;
    let infinity = ((1 << exponent_bits) - 1) << fraction_bits;
    let sign = u16::from(value.is_sign_negative()) << 15;
    if value.is_nan() {
        return sign | infinity | 1 << (fraction_bits - 1);
    }
    let magnitude = f64::from(value.abs());
    if magnitude == f64::INFINITY {
        return sign | infinity;
    }
    let mut exponent = 1 - bias;
    if magnitude > 0.0 {
        let binade = ((magnitude.to_bits() >> 52) as i32) - 1023;
        exponent = exponent.max(binade);
    }
    let quotient = nearest_even(magnitude * power_of_two(fraction_bits - exponent));
    let steps_per_binade = 1_i64 << fraction_bits;
    // The codes number the format's values from zero up. Each binade has one code per fraction, and the subnormals have
    // the spacing of the first binade. A quotient that rounded up to the next binade is that binade's first code.
    let code = i64::from(exponent - (1 - bias)) * steps_per_binade + quotient;
    sign | (code.min(i64::from(infinity)) as u16)
}

/// Returns the integer nearest to a number between 0 and 2^31, ties to even.
fn nearest_even(value: f64) -> i64 {
    let below = value as i32;
    let rest = value - f64::from(below);
    let up = rest > 0.5 || (rest == 0.5 && below % 2 == 1);
    i64::from(below) + i64::from(up)
}

/// The settings of a reference pass, as plain fields.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Settings {
    pub learning_rate: f32,
    pub beta_1: f32,
    pub beta_2: f32,
    pub weight_decay: Option<f32>,
    /// The factor of the decay, if not the learning rate.
    pub decay_rate: Option<f32>,
    pub masked_decay: bool,
    pub maximize: bool,
    pub loss_scale: Option<f32>,
    pub accumulation_steps: Option<u32>,
    pub clip_value: Option<f32>,
    /// The limit and the tensor's norm.
    pub clip_norm: Option<(f32, f32)>,
    /// The limit and the norm over all tensors.
    pub global_clip_norm: Option<(f64, f32)>,
    pub ema_momentum: Option<f32>,
    pub ema_overwrite: bool,
}

/// Returns the sign as Keras's numpy backend computes it.
fn sign(value: f32) -> f32 {
    if value > 0.0 {
        1.0
    } else if value < 0.0 {
        -1.0
    } else if value == 0.0 {
        0.0
    } else {
        f32::NAN
    }
}

/// Returns the larger of two numbers, NaN if either is NaN.
fn maximum(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        f32::NAN
    } else if a > b {
        a
    } else {
        b
    }
}

/// Returns the smaller of two numbers, NaN if either is NaN.
fn minimum(a: f32, b: f32) -> f32 {
    -maximum(-a, -b)
}

impl Settings {
    fn prepared(&self, gradient: f32, accumulator: Option<f32>) -> f32 {
        let mut g = gradient;
        if let Some(factor) = self.loss_scale {
            g = g / factor;
        }
        if let (Some(steps), Some(sum)) = (self.accumulation_steps, accumulator) {
            g = (g + sum) / steps as f32;
        }
        g
    }

    fn clipped(&self, gradient: f32) -> f32 {
        let mut g = gradient;
        if let Some((limit, norm)) = self.clip_norm {
            g = (g * limit) / maximum(norm, limit);
        }
        if let Some((limit, norm)) = self.global_clip_norm {
            let scale = limit as f32 * minimum(1.0 / norm, (1.0 / limit) as f32);
            g = g * (scale + (norm - norm));
        }
        if let Some(limit) = self.clip_value {
            g = minimum(maximum(g, -limit), limit);
        }
        g
    }

    /// Performs the step of [`Task::step`](crate::Task::step), in place.
    ///
    /// # Panics
    /// If the tensors' lengths differ.
    pub fn step<P: Float, G: Float, M: Float, C: Float>(
        &self,
        parameter: &mut [P],
        gradient: &[G],
        momentum: &mut [M],
        mut accumulator: Option<&mut [f32]>,
        mut average: Option<&mut [f32]>,
        mut copy: Option<&mut [C]>,
    ) {
        // A learning rate of -0 becomes +0.
        let learning_rate = self.learning_rate + 0.0;
        for i in 0..parameter.len() {
            let g = self.prepared(gradient[i].widen(), accumulator.as_ref().map(|sums| sums[i]));
            if let Some(sums) = &mut accumulator {
                sums[i] = 0.0;
            }
            let mut g = self.clipped(g);
            if self.maximize {
                g = -g;
            }
            let m = momentum[i].widen();
            let mut p = parameter[i].widen();
            let c = m * self.beta_1 + g * (1.0 - self.beta_1);
            if let Some(weight_decay) = self.weight_decay
                && (!self.masked_decay || sign(c) * p >= 0.0)
            {
                p = p - (p * weight_decay) * self.decay_rate.unwrap_or(learning_rate);
            }
            p = p - learning_rate * sign(c);
            momentum[i] = M::round(m * self.beta_2 + g * (1.0 - self.beta_2));
            parameter[i] = P::round(p);
            if let Some(averages) = &mut average {
                self.update_ema(&mut averages[i..=i], &mut parameter[i..=i]);
            }
            if let Some(copies) = &mut copy {
                copies[i] = C::round(parameter[i].widen());
            }
        }
    }

    /// The direction of each element's step: the sign of `c`, from the momentum before the step.
    ///
    /// # Panics
    /// Where the tensors' lengths differ.
    pub fn directions<G: Float, M: Float>(
        &self,
        gradient: &[G],
        momentum: &[M],
        accumulator: Option<&[f32]>,
    ) -> alloc::vec::Vec<f32> {
        let direction = |i: usize| {
            let g = self.clipped(self.prepared(gradient[i].widen(), accumulator.map(|sums| sums[i])));
            let g = if self.maximize { -g } else { g };
            sign(momentum[i].widen() * self.beta_1 + g * (1.0 - self.beta_1))
        };
        (0..gradient.len()).map(direction).collect()
    }

    /// Performs the pass of [`Task::update_ema`](crate::Task::update_ema).
    pub fn update_ema<P: Float>(&self, average: &mut [f32], parameter: &mut [P]) {
        let Some(momentum) = self.ema_momentum else { return };
        for (average, parameter) in average.iter_mut().zip(parameter) {
            *average = momentum * *average + (1.0 - momentum) * parameter.widen();
            if self.ema_overwrite {
                *parameter = P::round(*average);
            }
        }
    }

    /// Performs the pass of [`Task::accumulate`](crate::Task::accumulate).
    pub fn accumulate<G: Float>(&self, accumulator: &mut [f32], gradient: &[G]) {
        for (sum, gradient) in accumulator.iter_mut().zip(gradient) {
            *sum = self.prepared(gradient.widen(), None) + *sum;
        }
    }

    /// Returns the sum of squares, the number of non-finite elements, and the largest finite magnitude. The sum has the
    /// order of [`GradientStatistics`](crate::GradientStatistics).
    ///
    /// # Panics
    /// If the accumulator is shorter than the gradient.
    pub fn statistics<G: Float>(&self, gradient: &[G], accumulator: Option<&[f32]>) -> (f64, u64, f32) {
        let (mut total, mut non_finite, mut largest) = (0.0, 0, 0.0);
        for start in (0..gradient.len()).step_by(4096) {
            let mut sums = [0.0_f64; 32];
            for i in start..gradient.len().min(start + 4096) {
                let raw = gradient[i].widen();
                non_finite += u64::from(!raw.is_finite());
                let used = self.prepared(raw, accumulator.map(|sums| sums[i]));
                if used.abs() < f32::INFINITY && used.abs() > largest {
                    largest = used.abs();
                }
                sums[(i - start) % 32] += f64::from(used) * f64::from(used);
            }
            total += tree(&sums);
        }
        (total, non_finite, largest)
    }
}

/// Adds the upper half to the lower half, element by element, until one number is left.
fn tree(sums: &[f64]) -> f64 {
    match sums {
        [one] => *one,
        _ => {
            let (low, high) = sums.split_at(sums.len() / 2);
            let added: alloc::vec::Vec<f64> = low.iter().zip(high).map(|(a, b)| a + b).collect();
            tree(&added)
        }
    }
}
