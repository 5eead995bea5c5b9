//! The options for narrow formats and for decay that the tests of all adapters run through.

use lion::{Builder, DecayScale, Dtype};

/// One or two options of the optimizer, and a parameter dtype that shows their effect.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The name for messages.
    pub name: &'static str,
    /// The parameters' dtype.
    pub parameters: Dtype,
    /// Enables the options.
    pub set: fn(Builder) -> Builder,
}

const fn case(name: &'static str, parameters: Dtype, set: fn(Builder) -> Builder) -> Case {
    Case { name, parameters, set }
}

/// The cases. Each gives other bits than [`builder`] alone.
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

/// Returns a builder with weight decay, and with a learning rate at which bf16 parameters stall.
pub fn builder() -> Builder {
    lion::Lion::builder().learning_rate(0.001).weight_decay(0.1)
}
