//! The Lion optimizer for [burn](https://docs.rs/burn) 0.22, in place on the Flex backend.
//!
//! [`LionConfig`] stands in for burn's, with the same methods, and its optimizer's records are burn's own: a record that
//! one has saved loads in the other.
//!
//! ```
//! use burn::module::Param;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::optim::GradientsParams;
//! use burn::tensor::{Device, Tensor};
//! use lion_burn::LionConfig; // and not burn::optim::LionConfig
//!
//! let device = Device::flex().autodiff();
//! let mut model: Linear = LinearConfig::new(4, 3).init(&device);
//! let mut optimizer = LionConfig::new().with_weight_decay(0.01).init();
//! for _ in 0..3 {
//!     let loss = model.forward(Tensor::<2>::ones([2, 4], &device)).sum();
//!     let gradients = GradientsParams::from_grads(loss.backward(), &model);
//!     model = optimizer.step(1e-3, model, gradients);
//! }
//! ```
//!
//! bf16 parameters can be rounded at random, so that they move where rounding to nearest would leave them:
//! [`Lion::with_stochastic_rounding`].
//!
//! A step is one pass over parameter, gradient and momentum. It writes the parameter where it is if nothing else shares
//! its memory, and to a new tensor otherwise: burn-train's learner keeps the model that it steps from, so that there it
//! is always the latter. Backend, threads and chunks are as the machine's profile has them, in the rayon pool that the step
//! is called in; `LION_ISA`, `LION_NUM_THREADS` and `LION_CHUNK` replace its parts.
//!
//! # What burn does and what this does
//!
//! - On **other backends** than Flex, for **formats** other than f32, f16 and bf16, and with **hyperparameters** out of
//!   Lion's range, the step is the one of burn's own Lion, operation by operation. The log says so once.
//! - A parameter **without a gradient** is left alone, by burn, and so are **integer** and bool parameters, an **empty
//!   module**, and the gradients of **other modules**.
//! - A parameter **outside an autodiff device** that has a gradient burn's `ModuleOptimizer` panics at, whatever the
//!   optimizer.
//! - Parameters **added later** begin with a momentum of zero, and so do those that a **record of another model** has
//!   nothing for: burn knows a parameter by its id. Where a record has a momentum of another shape, the log says so as
//!   an error, and it begins at zero too.
//! - A gradient of **another shape**, which burn's operations panic at, moves nothing, and the log says so as an error:
//!   burn's trait has no result to return.
//! - A gradient may have **another format** than its parameter. It must have the rank of its parameter, or burn panics.
//! - Two parameters that **share** their memory are each written to a new tensor. A parameter that is in a module twice
//!   is moved once.

mod clip;
mod config;
mod flex;
mod optimizer;
mod state;

pub use clip::{Clipped, clip_global_norm};
pub use config::LionConfig;
pub use optimizer::Lion;
pub use state::{LionState, Rounding};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
