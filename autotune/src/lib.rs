//! Measuring Lion's kernels against the memory's speed.
//!
//! [`measure`] times two pieces of work in turn, so that whatever disturbs the machine disturbs both alike, and
//! answers with quantiles of each and of their ratio.

pub mod measure;
