//! Stochastic rounding to bfloat16: adds 16 random bits below the last place, then truncates.
//!
//! The random bits of an element are a hash of a key and of the element's index in its variable. So they do not depend
//! on the thread, chunk, part of a step, or rank that computes the element. The key is a hash of a seed, the variable's
//! name and the step's number:
//!
//! ```text
//! key = mix64(mix64(mix64(seed) ^ fnv1a64(name)) ^ step);   k0, k1 = its low and high 32 bits
//! q   = index / 2;   x = low32(q) ^ k0 ^ (high32(q) * 0x9e3779b9)
//! x  ^= x >> 16;  x *= 0x7feb352d;  x ^= x >> 15;  x ^= k1;  x *= 0x846ca68b;  x ^= x >> 16
//! r   = the low 16 bits of x for an even index, the high 16 for an odd one
//! stored = (bits(p) + r) >> 16 of a finite p;  an infinity stays, a NaN is 0x7fc0
//! ```
//!
//! `mix64` is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014). The 32-bit hash is `lowbias32` of Wellons'
//! "Hash Prospector" (2018), with the second half of the key mixed in. One hash serves two neighbouring elements,
//! because one 32-bit lane holds two bf16 neighbours.

use crate::isa::Isa;

/// The key of the random bits that round one variable in one step.
///
/// ```
/// use half::bf16;
/// use lion_kernels::{Backend, LionStep, StepTensors, StochasticRounding, Task};
///
/// // A step of 1/64 of the last place moves about one element in 64.
/// let mut parameter = vec![bf16::ONE; 6400];
/// let (gradient, mut momentum) = (vec![-1.0_f32; 6400], vec![0.0_f32; 6400]);
/// let step = LionStep::new(1.0 / 8192.0, 0.9, 0.99)?;
/// let step = step.stochastic_rounding(StochasticRounding::new(7, "weights", 0));
/// Task::step(step, StepTensors::in_place(&mut parameter, &gradient, &mut momentum))?.run(Backend::best())?;
/// let moved = parameter.iter().filter(|&&value| value != bf16::ONE).count();
/// assert!((60..140).contains(&moved));
/// # Ok::<(), lion_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StochasticRounding {
    /// The low and the high half of the key. Not a u64, because its alignment would make a task larger.
    key: [u32; 2],
}

impl StochasticRounding {
    /// Returns the key of a variable in a step. The same seed, name and step number give the same random bits.
    #[inline]
    pub fn new(seed: u64, name: &str, step: u64) -> Self {
        Self::variable_key(seed, name).at_step(step)
    }

    /// Returns the part of the key that is the same in every step.
    #[inline]
    pub fn variable_key(seed: u64, name: &str) -> VariableKey {
        VariableKey(mix64(mix64(seed) ^ fnv1a64(name.as_bytes())))
    }

    /// Returns the hash's two keys for the pair of neighbours `q`. The first includes the high 32 bits of `q`, but not
    /// the low ones.
    #[inline(always)]
    fn keys(self, q: u64) -> [u32; 2] {
        let [k0, k1] = self.key;
        [k0 ^ ((q >> 32) as u32).wrapping_mul(0x9e37_79b9), k1]
    }
}

/// The hash of a seed and a variable's name, from which [`at_step`](Self::at_step) derives the key of each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VariableKey(u64);

impl VariableKey {
    /// Returns the key of a step.
    #[inline]
    pub fn at_step(self, step: u64) -> StochasticRounding {
        let key = mix64(self.0 ^ step);
        StochasticRounding { key: [key as u32, (key >> 32) as u32] }
    }
}

#[inline]
fn mix64(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns the 64-bit FNV-1a hash (Fowler, Noll and Vo).
fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The multipliers of the 32-bit hash.
const MULTIPLIERS: [u32; 2] = [0x7feb_352d, 0x846c_a68b];

/// `(row ^ lane) * MULTIPLIERS[0]`, for the lanes of the longest vectors.
static PRODUCTS: [[u32; 16]; 16] = {
    let mut products = [[0; 16]; 16];
    let mut at = 0;
    while at < 256 {
        let (row, lane) = (at / 16, at % 16);
        products[row][lane] = ((row ^ lane) as u32).wrapping_mul(MULTIPLIERS[0]);
        at += 1;
    }
    products
};

/// A kernel's generator of random bits.
#[derive(Clone, Copy)]
pub(crate) struct Draws<I: Isa> {
    isa: I,
    rounding: StochasticRounding,
}

impl<I: Isa> Draws<I> {
    #[inline(always)]
    pub(crate) fn new(isa: I, rounding: StochasticRounding) -> Self {
        Draws { isa, rounding }
    }

    /// Returns random numbers below 2^16 for `2 * LANES` elements: the pairs of neighbours from pair `q` on, a multiple
    /// of `LANES`. If `split` is set, the first vector is for the even elements and the second for the odd ones;
    /// otherwise the numbers have the order of the elements.
    #[inline(always)]
    pub(crate) fn for_neighbours(&self, q: u64, split: bool) -> [I::U32; 2] {
        let (isa, hashes) = (self.isa, self.hashes(q));
        match split {
            true => [isa.and(hashes, isa.splat_u32(0xffff)), isa.shr16(hashes)],
            false => isa.halves(hashes).map(
                #[inline(always)]
                |halves| isa.widen(halves),
            ),
        }
    }

    /// Returns the hashes of the `LANES` pairs from pair `q` on, a multiple of `LANES`.
    ///
    /// The numbers of these pairs differ in their last four bits only: in lane `l`, `x` is `first ^ l`. The first shift
    /// drops these bits, so its xor is computed once for all lanes. The first product is that of the other bits, the
    /// same for all lanes, plus that of the last four bits, from a table.
    #[inline(always)]
    fn hashes(&self, q: u64) -> I::U32 {
        let Draws { isa, rounding } = *self;
        let [k0, k1] = rounding.keys(q);
        let first = q as u32 ^ k0;
        let first = first ^ (first >> 16);
        let products = isa.first_of(&PRODUCTS[first as usize % 16]);
        let x = isa.add_u32(isa.splat_u32((first & !15).wrapping_mul(MULTIPLIERS[0])), products);
        let x = isa.xor(isa.xor(x, isa.shr15(x)), isa.splat_u32(k1));
        let x = isa.mul_u32(x, isa.splat_u32(MULTIPLIERS[1]));
        isa.xor(x, isa.shr16(x))
    }
}
