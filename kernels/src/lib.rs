//! Kernels of the Lion optimizer (Chen et al., 2023) on tensors in f32, f16 and bf16: hand-vectorised for AVX-512, AVX2
//! and NEON, chosen at run time, with the same bits on each.
//!
//! [`LionStep`] holds the hyperparameters, [`StepTensors`] what they apply to, [`Task`] both, and [`Backend`] is the
//! instruction set:
//!
//! ```
//! use lion_kernels::{AlignedBuffer, Backend, LionStep, StepTensors, Task};
//!
//! let mut parameter = vec![0.5_f32; 1000];
//! let gradient = vec![-0.1_f32; 1000];
//! let mut momentum = AlignedBuffer::<f32>::zeroed(1000)?;
//!
//! let step = LionStep::new(1e-3, 0.9, 0.99)?.weight_decay(0.01)?;
//! let tensors = StepTensors::in_place(&mut parameter, &gradient, &mut momentum);
//! Task::step(step, tensors)?.run(Backend::best())?;
//! # Ok::<(), lion_kernels::Error>(())
//! ```
//!
//! The other passes are tasks too: gradient statistics, accumulation, the moving average, conversion. [`run()`] runs lists
//! of tasks on many threads, `run_on` on the host's own. Only [`AlignedBuffer`], [`TensorBuf`] and [`Arena`] allocate.
//! Nothing panics.
//!
//! A kernel sets the IEEE default floating-point state while it runs, and puts the caller's back ([`with_ieee_state`]).
//!
//! Without the default features `rayon` and `std` the crate needs `alloc` only. It then stays on the calling thread, does
//! not read `LION_ISA`, asks for no huge pages, and leaves the square root of a norm to the caller.

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

#[allow(unsafe_code)]
mod buffer;
#[allow(unsafe_code)]
mod column;
#[allow(unsafe_code)]
mod dispatch;
#[allow(unsafe_code)]
mod engine;
mod error;
#[allow(unsafe_code)]
mod float_state;
mod format;
#[allow(unsafe_code)]
mod isa;
#[allow(unsafe_code)]
mod parallel;
mod pass;
mod plan;
pub mod reference;
mod role;
mod rounding;
mod rule;
mod settings;
mod statistics;
mod sum;
#[allow(unsafe_code)]
mod task;

pub use buffer::{
    AlignedBuffer, Arena, HugePages, TensorBuf, TensorsMut, advise_huge_pages, advise_huge_pages_at,
};
pub use column::{TensorMut, TensorRef};
pub use dispatch::Backend;
pub use error::Error;
pub use float_state::with_ieee_state;
pub use format::{Dtype, Element, Stream};
pub use isa::prefetch::prefetch;
#[cfg(feature = "std")]
pub use parallel::run_on;
pub use parallel::{MAX_THREADS, run};
pub use plan::{Plan, Prefetch};
pub use role::Role;
pub use rounding::{StochasticRounding, VariableKey};
pub use settings::{Clip, Ema, GradientTransform, LionStep};
pub use statistics::{GradientStatistics, STATISTICS_BLOCK};
pub use sum::SumTree;
pub use task::{StepTensors, Task};
