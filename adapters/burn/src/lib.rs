//! The Lion optimizer for [burn](https://docs.rs/burn) 0.22, in place on the Flex backend.
//!
//! [`LionConfig`] replaces burn's, with the same methods. The records are burn's own: a record saved by either
//! optimizer loads in the other.
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
//! bf16 parameters can be rounded at random, so that they also move if rounding to nearest would not move them: see
//! [`Lion::with_stochastic_rounding`].
//!
//! A step is one pass over parameter, gradient and momentum. It writes the parameter in place if nothing else shares
//! its memory, and to a new tensor otherwise. burn-train's learner keeps the model before the step, so its steps always
//! write new tensors. The machine's profile determines backend, threads and chunks. Steps run in the caller's rayon
//! pool. `LION_ISA`, `LION_NUM_THREADS` and `LION_CHUNK` override parts of the profile.
//!
//! # Special cases
//!
//! - On **backends** other than Flex, for **dtypes** other than f32, f16 and bf16, and for **hyperparameters** outside
//!   Lion's range, burn's own Lion makes the step, operation by operation. The log says so once.
//! - burn does not change a parameter **without a gradient**, **integer** and bool parameters, or an **empty module**.
//!   It ignores the gradients of **other modules**.
//! - If a parameter **outside an autodiff device** has a gradient, burn's `ModuleOptimizer` panics, with any optimizer.
//! - Parameters **added later** start with a momentum of zero. So do parameters that are missing in a **record of
//!   another model**; burn identifies a parameter by its id. If a record has a momentum of another shape, the log
//!   reports an error, and the momentum starts at zero too.
//! - A gradient of **another shape** changes nothing, and the log reports an error, because burn's trait cannot return
//!   one. burn's own operations panic.
//! - A gradient may have **another dtype** than its parameter. It must have the parameter's rank; otherwise burn
//!   panics.
//! - Two parameters that **share** their memory are each written to a new tensor. A parameter that is in a module twice
//!   is updated once.

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
