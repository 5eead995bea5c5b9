//! The Lion optimizer for the arrays of [ndarray](https://docs.rs/ndarray) 0.17.
//!
//! Parameters and gradients are arrays or views of f32, f16 or bf16, in any mixture and any layout:
//!
//! ```
//! use lion_ndarray::{Lion, Update};
//! use ndarray::{Array2, array};
//!
//! let mut weights = Array2::<f32>::ones((2, 3));
//! let mut optimizer = Lion::new(Lion::builder().learning_rate(0.25))?;
//! let id = optimizer.register("weights", &weights)?;
//!
//! let gradient = array![[1.0_f32, 0.0, -1.0], [2.0, -2.0, 0.5]];
//! optimizer.apply(&mut [Update::new(id, &mut weights, &gradient)])?;
//! assert_eq!(weights, array![[0.75, 1.0, 1.25], [0.75, 1.25, 0.75]]);
//! # Ok::<(), lion_ndarray::Error>(())
//! ```
//!
//! # Layouts
//!
//! A variable has the order of axes of the array at registration, row-major or any other, and its state has the same
//! order. A step works in place on parameters and gradients that have this order in memory, without gaps. Any other
//! array, such as a stepped slice, a broadcast gradient, or an array in another order of axes, is copied lane by lane
//! into memory that the optimizer reuses. The parameter is then copied back. The numbers are the same in either case.
//!
//! Stochastic rounding, momentum in `q8` and constraints count elements or axes in row-major order. A variable with one
//! of them is always row-major, so an array in another order is copied.

mod error;
mod format;
mod optimizer;
mod order;
mod restore;
mod update;

pub use error::Error;
pub use format::Format;
pub use lion::{
    Backend, Builder, Config, Constraint, DecayScale, Dtype, DynamicLossScale, EmaCadence, Group, GroupId,
    Hyperparameter, Metrics, Outcome, Schedule, VariableId, VariableOptions, checkpoint, schedule,
};
pub use optimizer::Lion;
pub use update::Update;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
