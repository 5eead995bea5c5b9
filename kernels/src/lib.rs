//! Kernels of the Lion optimizer (Chen et al., 2023) on slices of f32, f16 and bf16: hand-vectorised for AVX-512,
//! AVX2 and NEON, chosen at run time, with the same bits on each.
//!
//! [`Step`] holds the hyperparameters, [`Tensors`] what they apply to, [`Backend`] the instruction set:
//!
//! ```
//! use lion_kernels::{Backend, Buffer, Step, Tensors};
//!
//! let mut parameter = vec![0.5_f32; 1000];
//! let gradient = vec![-0.1_f32; 1000];
//! let mut momentum = Buffer::<f32>::zeroed(1000)?;
//!
//! let step = Step::new(1e-3, 0.9, 0.99)?.weight_decay(0.01)?;
//! step.apply(Backend::best(), Tensors::in_place(&mut parameter, &gradient, &mut momentum[..]))?;
//! # Ok::<(), lion_kernels::Error>(())
//! ```
//!
//! Beside the step stand [`statistics()`] (the norm and the finite check of a gradient), [`accumulate`], [`average`]
//! and [`convert`]; [`run()`] makes lists of such passes on many threads. Nothing here allocates, but [`Buffer`] and
//! [`Arena`]; nothing panics.
//!
//! The arithmetic assumes the floating-point environment that Rust does: round to nearest, no flush to zero. A host
//! that sets another must restore it before it calls.
//!
//! Without the default features `rayon` and `std` the crate needs `alloc` only; it then stays on the calling thread, does
//! not read `LION_ISA`, asks for no huge pages, and leaves the square root of a norm to the caller.

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

#[allow(unsafe_code)]
mod buffer;
#[allow(unsafe_code)]
mod dispatch;
#[allow(unsafe_code)]
mod element;
#[allow(unsafe_code)]
mod elementwise;
mod error;
#[allow(unsafe_code)]
mod isa;
#[allow(unsafe_code)]
mod limit;
mod parallel;
mod plan;
pub mod reference;
mod rule;
mod settings;
#[allow(unsafe_code)]
mod statistics;
#[allow(unsafe_code)]
mod step;
#[allow(unsafe_code)]
mod sweep;
mod task;

pub use buffer::{Arena, Buffer, HugePages, TensorsMut, advise_huge_pages};
pub use dispatch::Backend;
pub use element::{Dtype, Element, Slice, SliceMut, Values};
pub use elementwise::{accumulate, average, convert};
pub use error::Error;
pub use isa::prefetch::prefetch;
pub use limit::stream;
pub use parallel::{MOST_THREADS, run};
pub use plan::{Plan, Prefetch};
pub use settings::{Clip, Ema, Gradient, Step};
pub use statistics::{BLOCK, Statistics, block_statistics, statistics};
pub use step::Tensors;
pub use task::Task;
