//! The C ABI of the Lion optimizer: C, C++ and every language that calls C can step their own memory on their own threads.
//! cbindgen generates `include/lion.h` from these sources, documentation included.
//!
//! Each function checks its arguments, makes tensors of the caller's addresses (`tensor`), and calls the Rust library. This
//! crate adds three things. Structs can grow without breaking older callers (`structs`). An error or a panic becomes a
//! number and a message of the thread (`status`). A second thread in an optimizer gets an error (`optimizer`).
//!
//! The caller upholds what no check can see. Each function's documentation lists it under "Safety": an address has the
//! memory that its length says, the memory is initialised, no other thread uses it, an optimizer comes from [`lion_new`]
//! and has not been freed.

#![allow(unsafe_code)]

mod checkpoint;
mod group;
mod memory;
mod metrics;
mod optimizer;
mod options;
mod parts;
mod plan;
mod statistics;
mod status;
mod step;
mod structs;
mod tensor;
mod threads;
mod update;
mod variable;
mod version;

pub use checkpoint::{lion_load, lion_save};
pub use group::{LionGroup, lion_add_group, lion_set_group};
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
    LionBegin, LionRange, lion_abandon, lion_abandoned_range, lion_begin, lion_finish, lion_part,
};
pub use plan::{LionPlan, lion_set_plan};
pub use statistics::{
    LION_BLOCK, LionBlock, LionGradient, lion_add_statistics, lion_measure, lion_statistics,
};
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
