//! The Lion optimizer of Keras on SIMD kernels: the same bits on every backend, at the speed of memory.
//!
//! An optimizer owns the state of named variables; parameters and gradients stay where they are, as slices of f32,
//! f16 or bf16 in any mixture:
//!
//! ```
//! use lion::{Dtype, Lion, Update};
//!
//! // Fits y = 3 x by gradient descent on the squared error.
//! let mut optimizer = Lion::builder().learning_rate(0.01).build()?;
//! let slope = optimizer.register("slope", &[], Dtype::F32)?;
//! let mut parameter = [0.0_f32];
//! for call in 0..400 {
//!     let x = (call % 7) as f32 - 3.0;
//!     let gradient = [2.0 * (parameter[0] * x - 3.0 * x) * x];
//!     optimizer.apply(&mut [Update::new(slope, &mut parameter[..], &gradient[..])])?;
//! }
//! assert!((parameter[0] - 3.0).abs() < 0.1);
//! # Ok::<(), lion::Error>(())
//! ```

mod check;
mod config;
mod constraint;
mod error;
mod hyperparameter;
mod json;
mod optimizer;
pub mod schedule;
mod variable;

pub use config::{Config, DynamicLossScale};
pub use constraint::{Axes, Constraint};
pub use error::Error;
pub use hyperparameter::Hyperparameter;
pub use lion_kernels::{Backend, Dtype, Slice, SliceMut};
pub use optimizer::{Builder, Lion};
pub use schedule::Schedule;
pub use variable::{Update, VariableId};
