//! Wrong arguments, one at a time: each is the error that the header promises, and changes nothing.

#![allow(unsafe_code)]

#[path = "../common/mod.rs"]
mod common;

mod files;
mod options;
mod pointers;
mod statistics;
mod steps;
mod structs;
mod tensors;
mod threads;

use common::{Optimizer, VARIABLE, options};
use lion::Dtype;
use lion_c::LionOptions;

/// An optimizer with the variables `a`, of 8 elements, and `b`, of 4.
pub(crate) fn optimizer() -> Optimizer {
    let c = Optimizer::new(Some(&LionOptions { learning_rate: 0.5, ..options() }));
    assert_eq!(c.register("a", &[2, 4], Dtype::F32, &VARIABLE), 0);
    assert_eq!(c.register("b", &[4], Dtype::BF16, &VARIABLE), 1);
    c
}
