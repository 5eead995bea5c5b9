//! The Lion optimizer for [candle](https://docs.rs/candle-core) 0.11, in place on the CPU.
//!
//! [`Lion`] is a [`candle_nn::Optimizer`], made of variables and a [`Builder`] with all that the optimizer can do:
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use candle_nn::Optimizer;
//! use lion_candle::Lion;
//!
//! // Fits y = 3 x.
//! let device = Device::Cpu;
//! let slope = Var::zeros(1, candle_core::DType::F32, &device)?;
//! let mut optimizer = Lion::new(vec![slope.clone()], Lion::builder().learning_rate(0.01))?;
//! let x = Tensor::new(&[-1.0_f32, 2.0, 3.0], &device)?;
//! for _ in 0..1000 {
//!     let error = (x.broadcast_mul(&slope)? - (&x * 3.0)?)?;
//!     optimizer.backward_step(&error.sqr()?.mean_all()?)?;
//! }
//! assert!((slope.to_vec1::<f32>()?[0] - 3.0).abs() < 0.05);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! A step moves each variable where it is and copies no tensor; only a gradient that is not contiguous is made so
//! first, which backward passes do not give.
//!
//! # What candle does and what this does
//!
//! - A variable of **integers** is left out, as candle's optimizers leave it out; the log names it. One of f64 or
//!   of 8 bits, or on another device than the CPU, is an error.
//! - A variable **without a gradient** stays as it is. A step in which no variable has one is an error.
//! - A gradient of **another shape**, or of another format than f32, f16 and bf16, is an error, and nothing has
//!   been moved then. It need not have the variable's format.
//! - A variable that is there **twice** is an error.
//! - **No variables at all**: a step does nothing.
//! - Variables **added later**: an optimizer of [`Lion::from_varmap`] finds them in its next step; to others they are
//!   added with [`Lion::push`].
//! - A variable that is **replaced** in that map, under its name: the next step moves the new one, with the state of the
//!   old one. One of another shape or format is an error until it is put right. A variable that is removed from the map
//!   stays with the optimizer.
//! - A **checkpoint** of another model is an error, and nothing has been changed then.
//! - A **learning rate** out of range, which candle's `set_learning_rate` cannot refuse, makes each step an error until
//!   another is set.
//! - While a step runs, the variables' elements are with the optimizer: **another thread** must not compute with them.

mod gradient;
mod loan;
mod optimizer;
mod threads;
mod values;
mod variable;

pub use lion::{
    Backend, Builder, Config, Constraint, DecayScale, Dtype, DynamicLossScale, EmaCadence, Group, GroupId,
    Hyperparameter, Metrics, Outcome, Schedule, VariableId, VariableOptions, checkpoint, schedule,
};
pub use optimizer::Lion;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
