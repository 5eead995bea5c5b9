//! The dtypes that the example trains in.

use half::bf16;
use lion_kernels::{Element, reference::Float};

/// A dtype: the library's [`Element`], the reference's [`Float`], and conversions to and from f32 for the network.
pub(crate) trait Storage: Element + Float + Into<f32> {
    fn nearest(value: f32) -> Self;
}

impl Storage for f32 {
    fn nearest(value: f32) -> Self {
        value
    }
}

impl Storage for bf16 {
    fn nearest(value: f32) -> Self {
        bf16::from_f32(value)
    }
}
