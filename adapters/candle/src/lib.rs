//! The Lion optimizer for [candle](https://docs.rs/candle-core) 0.11, in place on the CPU.
//!
//! [`Lion`] is a [`candle_nn::Optimizer`]. It is created from variables and a [`Builder`] with all options of the core:
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
//! A step updates each variable in place and copies no tensor, except gradients that are not contiguous. Backward
//! passes do not produce such gradients.
//!
//! # Special cases
//!
//! - A variable of **integers** is left out, as in candle's own optimizers, and the log names it. A variable of f64, of
//!   8 bits, or on another device than the CPU is an error.
//! - A variable **without a gradient** does not change. A step in which no variable has a gradient is an error.
//! - A gradient of **another shape**, or of a dtype other than f32, f16 and bf16, is an error, and nothing has changed.
//!   Its dtype may differ from the variable's.
//! - A variable that is given **twice** is an error.
//! - **Without variables**, a step does nothing.
//! - Variables **added later**: an optimizer from [`Lion::from_varmap`] finds them in its next step. Other optimizers
//!   add them with [`Lion::push`].
//! - If a variable of that map is **replaced** under its name, the next step updates the new variable, with the state
//!   of the old one. A replacement of another shape or dtype is an error until it is corrected. A variable that is
//!   removed from the map stays in the optimizer.
//! - A **checkpoint** of another model is an error, and nothing has changed.
//! - candle's `set_learning_rate` cannot return an error. After a **learning rate** out of range, each step is an error
//!   until another rate is set.
//! - During a step, the optimizer holds the variables' elements. **Another thread** must not compute with them.

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
