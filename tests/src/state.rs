//! An optimizer's state as text, for comparison.

use std::fmt::Write;

use lion::checkpoint::{Checkpoint, Tensor};

use crate::tensor_bits;

/// Returns the contents of a checkpoint as text, including the bits of every element. All NaNs compare equal.
pub fn checkpoint_text(checkpoint: &Checkpoint<'_>) -> String {
    let Checkpoint { variables, iterations, dynamic, config_json, seed } = checkpoint;
    let mut text = format!("{iterations} {dynamic:?} {config_json:?} {seed:?}\n");
    for variable in variables {
        let bits = |tensor: &Option<Tensor<'_>>| {
            tensor.as_ref().map(|tensor| (tensor.dtype(), tensor_bits(tensor.to_ref())))
        };
        let tensors =
            [&variable.parameter, &variable.momentum, &variable.low, &variable.ema, &variable.accumulator]
                .map(bits);
        let (name, shape, shard) = (&variable.name, &variable.shape, &variable.shard);
        writeln!(text, "{name:?} {shape:?} {shard:?} {tensors:?}").expect("a string takes everything");
    }
    text
}
