//! Single passes on one thread and one backend: each function creates a task and runs it.

use lion_kernels::{
    Backend, Ema, Error, GradientStatistics, GradientTransform, LionStep, StepTensors, Task, TensorMut,
    TensorRef,
};

/// Runs a step.
///
/// # Errors
/// The errors of [`Task::step`] and [`Task::run`].
pub fn apply(step: LionStep, backend: Backend, tensors: StepTensors<'_>) -> Result<(), Error> {
    Task::step(step, tensors)?.run(backend)
}

/// Adds the gradient to the accumulator.
///
/// # Errors
/// The errors of [`Task::accumulate`] and [`Task::run`].
pub fn accumulate<'a>(
    backend: Backend,
    transform: &GradientTransform,
    accumulator: &'a mut [f32],
    gradient: impl Into<TensorRef<'a>>,
) -> Result<(), Error> {
    Task::accumulate(transform, accumulator, gradient)?.run(backend)
}

/// Updates the moving average of the parameter.
///
/// # Errors
/// The errors of [`Task::update_ema`] and [`Task::run`].
pub fn update_ema<'a>(
    backend: Backend,
    ema: &Ema,
    average: &'a mut [f32],
    parameter: impl Into<TensorMut<'a>>,
) -> Result<(), Error> {
    Task::update_ema(ema, average, parameter)?.run(backend)
}

/// Converts a tensor.
///
/// # Errors
/// The errors of [`Task::convert`] and [`Task::run`].
pub fn convert<'a>(
    backend: Backend,
    source: impl Into<TensorRef<'a>>,
    copy: impl Into<TensorMut<'a>>,
) -> Result<(), Error> {
    Task::convert(source, copy)?.run(backend)
}

/// Computes the statistics of each block.
///
/// # Errors
/// The errors of [`Task::statistics`] and [`Task::run`].
pub fn block_statistics<'a>(
    backend: Backend,
    transform: &GradientTransform,
    gradient: impl Into<TensorRef<'a>>,
    accumulator: Option<&'a [f32]>,
    blocks: &'a mut [GradientStatistics],
) -> Result<(), Error> {
    Task::statistics(transform, gradient, accumulator, blocks)?.run(backend)
}
