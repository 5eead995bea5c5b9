//! The native half of the Python package `lion_cpu`: numpy's optimizer, the steps for PyTorch, Keras and JAX, and the tools
//! of the command `lion`.
//!
//! A call reads Python's objects under the GIL, checks them against each other, and holds references to them. The core then
//! works on their memory without the GIL. Every entry turns a panic into a `RuntimeError`. `unsafe` reads memory that other
//! libraries own: in `dlpack.rs`, `tensor.rs`, `call.rs`, `jax.rs` and `torch`. It
//! also watches for forks, in `fork.rs` and `pool.rs`.

mod build;
mod call;
mod constraint;
mod dlpack;
mod engine;
mod error;
mod fork;
mod jax;
mod keras;
mod logging;
mod metrics;
mod optimizer;
mod pool;
mod schedule;
mod shared;
mod tensor;
mod tools;
mod torch;
mod value;

#[pyo3::pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::constraint::Constraint;
    #[pymodule_export]
    use crate::fork::{Calls, count};
    #[pymodule_export]
    use crate::jax::jax_handler;
    #[pymodule_export]
    use crate::keras::KerasSteps;
    #[pymodule_export]
    use crate::metrics::Metrics;
    #[pymodule_export]
    use crate::optimizer::Optimizer;
    #[pymodule_export]
    use crate::schedule::Schedule;
    #[pymodule_export]
    use crate::tools::{doctor, options, replay, tune};
    #[pymodule_export]
    use crate::torch::{TorchSteps, convert_momentum, decay_rate};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::fork::watch()?;
        crate::logging::start();
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
