//! The C ABI of the Lion optimizer: a C or C++ program, or any language that calls C, steps its own memory, on its own
//! threads. `include/lion.h` is made of these sources, with their documentation.
//!
//! A function checks what can be seen of its arguments, makes tensors of the caller's addresses (`tensor`), and calls the
//! Rust library. Three things are done here alone: structs grow without breaking older callers (`structs`), an error
//! becomes a number and a text of the thread, a panic too (`status`), and two threads in one optimizer are told apart
//! (`optimizer`).
//!
//! The caller upholds what cannot be seen, and each function's documentation names it: that an address has the memory that a
//! length says, that the memory is initialised, that no other thread uses it, that an optimizer is one of
//! [`lion_new`]'s and has not been freed.

#![allow(unsafe_code)]

mod checkpoint;
mod memory;
mod metrics;
mod optimizer;
mod options;
mod parts;
mod plan;
mod status;
mod step;
mod structs;
mod tensor;
mod threads;
mod update;
mod variable;
mod version;

pub use checkpoint::{lion_load, lion_save};
pub use memory::{LionHugePages, lion_advise_huge_pages};
pub use metrics::{
    LION_ACCUMULATED, LION_KNOWS_CLIPPED, LION_KNOWS_CLIPPED_NORM, LION_KNOWS_GRADIENT_NORM,
    LION_KNOWS_LOSS_SCALE, LION_KNOWS_NON_FINITE, LION_NOTHING, LION_OVERWRITTEN, LION_SKIPPED, LION_UPDATED,
    LionMetrics, lion_metrics,
};
pub use optimizer::{
    LionOptimizer, lion_free, lion_new, lion_new_from_config, lion_set, lion_set_learning_rate,
};
pub use options::{LION_OFF, LionOptions, lion_options_init};
pub use parts::{
    LionBegin, LionGradient, LionRange, lion_abandon, lion_abandoned_range, lion_begin, lion_finish,
    lion_measure, lion_part,
};
pub use plan::{LionPlan, lion_set_plan};
pub use status::{
    LION_ERROR_BUSY, LION_ERROR_FORMAT, LION_ERROR_IO, LION_ERROR_MEMORY, LION_ERROR_NAME, LION_ERROR_PANIC,
    LION_ERROR_POINTER, LION_ERROR_STATE, LION_ERROR_STEP, LION_ERROR_TENSOR, LION_ERROR_UNSUPPORTED,
    LION_ERROR_VALUE, LION_OK, LionStatus, lion_last_error,
};
pub use step::{LionStepTensors, lion_step};
pub use tensor::{LION_BF16, LION_F16, LION_F32};
pub use threads::{LionParallelFor, LionWork, lion_set_parallel_for};
pub use update::{LionUpdate, lion_apply, lion_finalize};
pub use variable::{LionVariable, LionVariableOptions, lion_register};
pub use version::{LION_ABI_VERSION, lion_abi_version};
