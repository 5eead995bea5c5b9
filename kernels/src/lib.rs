//! SIMD kernels of the Lion optimizer (Chen et al., 2023) for tensors in f32, f16 and bf16. They are hand-vectorised
//! for AVX-512, AVX2 and NEON and dispatched at run time. Every backend gives the same bits.
//!
//! [`LionStep`] holds the hyperparameters and [`StepTensors`] the tensors. A [`Task`] combines the two. [`Backend`]
//! names the instruction set:
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
//! The other passes are tasks too: gradient statistics, gradient accumulation, the moving average (EMA), and dtype
//! conversion. [`run()`] runs a list of tasks on rayon's threads, `run_on` on the host's threads. Only
//! [`AlignedBuffer`], [`TensorBuf`] and [`Arena`] allocate tensors. No function panics, except those of [`mod@reference`].
//!
//! A kernel sets the IEEE default floating-point state while it runs, then restores the caller's state
//! ([`with_ieee_state`]).
//!
//! Without the default features `rayon` and `std`, the crate needs `alloc` only. It then runs on the calling thread,
//! ignores `LION_ISA`, requests no huge pages, and leaves the square root of a norm to the caller.

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

#[allow(unsafe_code)]
mod buffer;
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
#[allow(unsafe_code)]
mod tensor;

pub use buffer::{
    AlignedBuffer, Arena, HugePages, TensorBuf, TensorsMut, advise_huge_pages, advise_huge_pages_at,
};
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
pub use tensor::{TensorMut, TensorRef};
