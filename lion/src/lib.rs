//! Keras's Lion optimizer on SIMD kernels: the same bits on every backend, at memory bandwidth.
//!
//! An optimizer owns the state of named variables. Parameters and gradients stay in the caller's memory, as slices of
//! f32, f16 or bf16 in any mixture:
//!
//! ```
//! use lion::{Dtype, Lion, Update};
//!
//! // Fits y = 3 x by gradient descent on the squared error.
//! let mut optimizer = Lion::builder().learning_rate(0.01).build()?;
//! let slope = optimizer.register("slope", &[], Dtype::F32)?;
//! let mut parameter = [0.0_f32];
//! for step in 0..1000 {
//!     let x = (step % 7) as f32 - 3.0;
//!     let gradient = [2.0 * (parameter[0] * x - 3.0 * x) * x];
//!     optimizer.apply(&mut [Update::new(slope, &mut parameter[..], &gradient[..])])?;
//! }
//! assert!((parameter[0] - 3.0).abs() < 0.1);
//! # Ok::<(), lion::Error>(())
//! ```

mod accumulation;
mod builder;
mod check;
pub mod checkpoint;
mod clip;
mod config;
mod constraint;
mod coverage;
mod decay;
mod ema;
mod error;
mod first_bytes;
mod group;
mod host_threads;
mod hyperparameter;
mod json;
mod loss_scale;
mod metrics;
mod optimizer;
pub mod options;
mod pattern;
pub mod replay;
pub mod schedule;
mod sign_agreement;
mod stalled;
mod state;
mod statistics;
pub mod tensor_file;
mod update;
mod variable;
mod watch;
mod zip;

pub use builder::Builder;
pub use config::{Config, DynamicLossScale};
pub use constraint::{Axes, Constraint};
pub use decay::DecayScale;
pub use ema::EmaCadence;
pub use error::{Error, ErrorKind};
pub use group::{Group, GroupId, StepHyperparameters};
pub use host_threads::ParallelFor;
pub use hyperparameter::Hyperparameter;
pub use lion_autotune::Profile;
pub use lion_kernels::{Backend, Dtype, Plan, Prefetch, TensorBuf, TensorMut, TensorRef};
pub use metrics::{Metrics, Outcome};
pub use optimizer::{Abandoned, BeginOptions, Lion, StepId};
pub use schedule::Schedule;
pub use statistics::{Gradient, Statistics};
pub use update::Update;
pub use variable::{VariableId, VariableOptions, VariableStateMut, VariableView};

/// The names that most training programs use: `use lion::prelude::*;`.
pub mod prelude {
    pub use crate::schedule::{
        CosineDecay, CosineDecayRestarts, ExponentialDecay, InverseTimeDecay, LinearWarmup,
        PiecewiseConstantDecay, PolynomialDecay,
    };
    pub use crate::{
        Config, Constraint, DecayScale, Dtype, DynamicLossScale, EmaCadence, Group, GroupId, Hyperparameter,
        Lion, Metrics, Outcome, Schedule, Update, VariableId, VariableOptions,
    };
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
