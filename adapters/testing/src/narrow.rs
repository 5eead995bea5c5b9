//! The options for formats that move fewer bytes, and for decay, as the adapters' tests go through them.

use lion::{Builder, DecayScale, Dtype};

/// An option of the optimizer, or two, and parameters that show it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// For messages.
    pub name: &'static str,
    /// The parameters' format.
    pub parameters: Dtype,
    /// Switches the option on.
    pub set: fn(Builder) -> Builder,
}

const fn case(name: &'static str, parameters: Dtype, set: fn(Builder) -> Builder) -> Case {
    Case { name, parameters, set }
}

/// Each changes the bits of what [`builder`] gives.
pub const CASES: [Case; 8] = [
    case("stochastic rounding", Dtype::BF16, |it| it.stochastic_rounding(17)),
    case("exact split", Dtype::BF16, |it| it.split_master(true)),
    case("q8 momentum", Dtype::F32, |it| it.momentum_dtype(Dtype::Q8)),
    case("stochastic rounding, q8", Dtype::BF16, |it| it.stochastic_rounding(17).momentum_dtype(Dtype::Q8)),
    case("exact split, q8", Dtype::BF16, |it| it.split_master(true).momentum_dtype(Dtype::Q8)),
    case("masked decay", Dtype::F32, |it| it.cautious_decay(true)),
    case("relative decay", Dtype::F32, |it| it.decay_scale(DecayScale::Relative(0.01))),
    case("corrected decay", Dtype::F32, |it| it.decay_scale(DecayScale::Corrected(0.01))),
];

/// A rate at which bf16 parameters stall, with decay.
pub fn builder() -> Builder {
    lion::Lion::builder().learning_rate(0.001).weight_decay(0.1)
}
