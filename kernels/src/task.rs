//! Tasks. A task describes one pass over one variable, or over a part of it. It can be split, queued, run on any
//! thread, and run again.
//!
//! A [`Task`] holds the settings of its pass and the addresses of its tensors. The constructors check everything, so a
//! run can only fail if the backend is unavailable. A task over a part of a variable stores the index of its first
//! element in the variable. Tasks are split at multiples of [`STATISTICS_BLOCK`] elements.
//!
//! The tensors stay borrowed while the task lives. [`Task::set_step`] replaces the hyperparameters. So a caller whose
//! tensors do not move prepares a list of tasks once.

use core::marker::PhantomData;
use core::ops::Range;

use crate::dispatch::Backend;
use crate::engine;
use crate::error::{Error, check_length};
use crate::float_state::with_ieee_state;
use crate::format::Dtype;
use crate::pass::{Pass, PassTensors};
use crate::plan::Prefetch;
use crate::role::Role;
use crate::settings::{Ema, GradientTransform, LionStep};
use crate::statistics::{GradientStatistics, STATISTICS_BLOCK};
use crate::tensor::{RawTensor, TensorMut, TensorRef};

/// Collects the tensors of a new task and the first length mismatch.
#[derive(Debug)]
struct TaskBuilder<'a> {
    tensors: PassTensors,
    /// Role and length of the first tensor.
    reference: (Role, usize),
    wrong_length: Option<(Role, usize)>,
    borrow: PhantomData<&'a mut [u8]>,
}

impl<'a> TaskBuilder<'a> {
    #[inline(always)]
    fn new(reference: Role, raw: RawTensor) -> Self {
        let mut tensors = PassTensors::none();
        tensors.insert(reference, raw);
        TaskBuilder { tensors, reference: (reference, raw.len), wrong_length: None, borrow: PhantomData }
    }

    #[inline(always)]
    fn with(mut self, role: Role, raw: RawTensor) -> Self {
        if raw.len != self.reference.1 && self.wrong_length.is_none() {
            self.wrong_length = Some((role, raw.len));
        }
        self.tensors.insert(role, raw);
        self
    }

    /// Creates the task. Every constructor ends here, so this is the one place that checks the tensors.
    #[inline(always)]
    fn task(self, pass: Pass) -> Result<Task<'a>, Error> {
        let (reference, len) = self.reference;
        if let Some((role, found)) = self.wrong_length {
            check_length(role.name(), found, reference.name(), len)?;
        }
        pass.check(&self.tensors)?;
        Ok(Task { pass, tensors: self.tensors, len, first: 0, borrow: PhantomData })
    }
}

/// The tensors of one step. All have the same length; each has its own format.
///
/// ```
/// use half::bf16;
/// use lion_kernels::{Backend, LionStep, StepTensors, Task};
///
/// let mut parameter = vec![1.0_f32, 2.0, 3.0];
/// let gradient = vec![bf16::from_f32(0.5), bf16::ZERO, bf16::NEG_ONE];
/// let mut momentum = vec![0.0_f32; 3];
///
/// let step = LionStep::new(0.25, 0.9, 0.99)?;
/// Task::step(step, StepTensors::in_place(&mut parameter, &gradient, &mut momentum))?.run(Backend::best())?;
/// assert_eq!(parameter, [0.75, 2.0, 3.25]);
/// # Ok::<(), lion_kernels::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct StepTensors<'a>(TaskBuilder<'a>);

impl<'a> StepTensors<'a> {
    /// Creates the tensors of a step that overwrites the parameter.
    #[inline]
    pub fn in_place(
        parameter: impl Into<TensorMut<'a>>,
        gradient: impl Into<TensorRef<'a>>,
        momentum: impl Into<TensorMut<'a>>,
    ) -> Self {
        let tensors = TaskBuilder::new(Role::Parameter, parameter.into().raw);
        StepTensors(
            tensors.with(Role::Gradient, gradient.into().raw).with(Role::Momentum, momentum.into().raw),
        )
    }

    /// Creates the tensors of a step that reads the parameter from `source` and writes `parameter`, of the same format.
    #[inline]
    pub fn out_of_place(
        source: impl Into<TensorRef<'a>>,
        parameter: impl Into<TensorMut<'a>>,
        gradient: impl Into<TensorRef<'a>>,
        momentum: impl Into<TensorMut<'a>>,
    ) -> Self {
        StepTensors(Self::in_place(parameter, gradient, momentum).0.with(Role::Source, source.into().raw))
    }

    /// Adds the accumulator of earlier gradients, which the step clears. Required if
    /// [`GradientTransform::average_over`](crate::GradientTransform::average_over) is set.
    #[inline]
    pub fn accumulator(self, accumulator: impl Into<TensorMut<'a>>) -> Self {
        StepTensors(self.0.with(Role::Accumulator, accumulator.into().raw))
    }

    /// Adds the moving average of the parameter. Required if [`LionStep::ema`] is set.
    #[inline]
    pub fn ema(self, ema: impl Into<TensorMut<'a>>) -> Self {
        StepTensors(self.0.with(Role::Ema, ema.into().raw))
    }

    /// Also writes the stored parameter to `copy`, in any dtype: a 16-bit working copy of an f32 master.
    #[inline]
    pub fn copy(self, copy: impl Into<TensorMut<'a>>) -> Self {
        StepTensors(self.0.with(Role::Copy, copy.into().raw))
    }

    /// Also writes the step's direction, in f32, f16 or bf16: the sign of `c`, which is -1, 0, 1 or NaN. Such a step runs
    /// through tiles. [`Task::follow`] makes the same move on another copy of the parameter.
    #[inline]
    pub fn direction(self, direction: impl Into<TensorMut<'a>>) -> Self {
        StepTensors(self.0.with(Role::Direction, direction.into().raw))
    }
}

/// One pass over the tensors of one variable. [`run`](crate::run()) runs a list of tasks. No task of a list may depend
/// on the result of another.
///
/// ```
/// use lion_kernels::{Backend, LionStep, Plan, StepTensors, Task, run};
///
/// let (mut kernel, mut bias) = (vec![1.0_f32; 8192], vec![1.0_f32; 64]);
/// let (mut kernel_momentum, mut bias_momentum) = (vec![0.0_f32; 8192], vec![0.0_f32; 64]);
/// let gradient = vec![0.5_f32; 8192];
///
/// let step = LionStep::new(0.25, 0.9, 0.99)?;
/// let mut tasks = [
///     Task::step(
///         step.weight_decay(0.1)?,
///         StepTensors::in_place(&mut kernel, &gradient, &mut kernel_momentum),
///     )?,
///     Task::step(step, StepTensors::in_place(&mut bias, &gradient[..64], &mut bias_momentum))?,
/// ];
/// run(&Plan::new(Backend::best()), &mut tasks)?;
/// assert_eq!((kernel[0], bias[0]), (0.725, 0.75));
/// # Ok::<(), lion_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Task<'a> {
    pass: Pass,
    tensors: PassTensors,
    len: usize,
    first: u64,
    borrow: PhantomData<&'a mut [u8]>,
}

// SAFETY: a task acts as borrows of plain numbers, which other threads may hold.
unsafe impl Send for Task<'_> {}
// SAFETY: the public methods of a shared task read no tensor. The crate itself runs disjoint ranges of a task.
unsafe impl Sync for Task<'_> {}

impl<'a> Task<'a> {
    /// Creates a Lion step.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::SourceDtype`], [`Error::Format`], [`Error::MissingTensor`] or
    /// [`Error::UnusedTensor`] if the tensors do not match each other or the settings.
    #[inline]
    pub fn step(step: LionStep, tensors: StepTensors<'a>) -> Result<Self, Error> {
        tensors.0.task(Pass::Step(step))
    }

    /// Moves a copy of a parameter as a step has moved the original, by the directions that the step has written
    /// ([`StepTensors::direction`]): decay, learning rate and rounding are those of `step`, so the bits are too. Of a NaN
    /// the sign and payload may differ. Gradient transforms and averages of `step` are not used.
    ///
    /// ```
    /// use lion_kernels::{Backend, LionStep, StepTensors, Task};
    ///
    /// let (mut parameter, mut momentum, mut directions) = ([1.0_f32, 2.0], [0.0_f32; 2], [0.0_f32; 2]);
    /// let mut copy = parameter;
    /// let step = LionStep::new(0.25, 0.9, 0.99)?.weight_decay(0.1)?;
    /// let tensors = StepTensors::in_place(&mut parameter, &[3.0_f32, -0.5], &mut momentum);
    /// Task::step(step, tensors.direction(&mut directions))?.run(Backend::best())?;
    /// assert_eq!(directions, [1.0, -1.0]);
    ///
    /// Task::follow(step, &mut copy, &directions)?.run(Backend::best())?;
    /// assert_eq!(copy, parameter);
    /// # Ok::<(), lion_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ; [`Error::Format`] for a format that the tensor cannot have.
    pub fn follow(
        step: LionStep,
        parameter: impl Into<TensorMut<'a>>,
        directions: impl Into<TensorRef<'a>>,
    ) -> Result<Self, Error> {
        let tensors = TaskBuilder::new(Role::Parameter, parameter.into().raw);
        let tensors = tensors.with(Role::Direction, directions.into().raw);
        tensors.task(Pass::Step(step.along_directions()))
    }

    /// Creates a pass that adds a gradient to its accumulator: `accumulator = gradient / loss_scale + accumulator`, in
    /// f32.
    ///
    /// The pass uses only the loss scale of `transform`. Averaging and clipping belong to the step.
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn accumulate(
        transform: &GradientTransform,
        accumulator: impl Into<TensorMut<'a>>,
        gradient: impl Into<TensorRef<'a>>,
    ) -> Result<Self, Error> {
        let tensors = TaskBuilder::new(Role::Accumulator, accumulator.into().raw);
        tensors.with(Role::Gradient, gradient.into().raw).task(Pass::Accumulate(*transform))
    }

    /// Creates a pass that updates the moving average of a parameter, and overwrites the parameter if `ema` says so.
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn update_ema(
        ema: &Ema,
        average: impl Into<TensorMut<'a>>,
        parameter: impl Into<TensorMut<'a>>,
    ) -> Result<Self, Error> {
        let tensors = TaskBuilder::new(Role::Parameter, parameter.into().raw);
        tensors.with(Role::Ema, average.into().raw).task(Pass::Ema(*ema))
    }

    /// Creates a pass that converts a tensor to another format. Values round to nearest even.
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn convert(source: impl Into<TensorRef<'a>>, copy: impl Into<TensorMut<'a>>) -> Result<Self, Error> {
        let tensors = TaskBuilder::new(Role::Source, source.into().raw);
        tensors.with(Role::Copy, copy.into().raw).task(Pass::Convert)
    }

    /// Creates a pass that computes the statistics of each block of a gradient, after division by the loss scale and
    /// averaging with the accumulator. The pass ignores the clip of `transform`, because a clip needs these statistics.
    ///
    /// ```
    /// use lion_kernels::{Backend, GradientStatistics, GradientTransform, Task};
    ///
    /// let mut blocks = [GradientStatistics::default(); 1];
    /// Task::statistics(&GradientTransform::new(), &[3.0_f32, -4.0], None, &mut blocks)?.run(Backend::best())?;
    /// let all = GradientStatistics::from_blocks(&blocks);
    /// assert_eq!((all.norm(), all.non_finite, all.max_abs), (5.0, 0, 4.0));
    /// # Ok::<(), lion_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::MissingTensor`] or [`Error::UnusedTensor`] if gradient, accumulator and transform do
    /// not match, [`Error::Blocks`] if the length of `blocks` is not `gradient.len().div_ceil(STATISTICS_BLOCK)`.
    pub fn statistics(
        transform: &GradientTransform,
        gradient: impl Into<TensorRef<'a>>,
        accumulator: Option<&'a [f32]>,
        blocks: &'a mut [GradientStatistics],
    ) -> Result<Self, Error> {
        let gradient = gradient.into().raw;
        let mut tensors = TaskBuilder::new(Role::Gradient, gradient);
        if let Some(accumulator) = accumulator {
            tensors = tensors.with(Role::Accumulator, TensorRef::from(accumulator).raw);
        }
        let task = tensors.task(Pass::Statistics(*transform, blocks.as_mut_ptr()))?;
        let (found, elements) = (blocks.len(), gradient.len);
        let expected = elements.div_ceil(STATISTICS_BLOCK);
        if found == expected { Ok(task) } else { Err(Error::Blocks { found, expected, elements }) }
    }

    /// Creates a pass that moves the bytes of a step as cheaply as possible, as a baseline for measurements. It reads
    /// the gradient and rewrites parameter and momentum with changed bits. A second run restores the tensors.
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn bandwidth_step(
        parameter: impl Into<TensorMut<'a>>,
        gradient: impl Into<TensorRef<'a>>,
        momentum: impl Into<TensorMut<'a>>,
    ) -> Result<Self, Error> {
        StepTensors::in_place(parameter, gradient, momentum).0.task(Pass::Bandwidth)
    }

    /// Creates a pass that reads and discards a tensor, to measure bandwidth.
    pub fn bandwidth_read(tensor: impl Into<TensorRef<'a>>) -> Self {
        Self::bandwidth(Role::Source, tensor.into().raw)
    }

    /// Creates a pass that flips each bit of a tensor, to measure bandwidth. A second run restores the tensor.
    pub fn bandwidth_rewrite(tensor: impl Into<TensorMut<'a>>) -> Self {
        Self::bandwidth(Role::Momentum, tensor.into().raw)
    }

    fn bandwidth(role: Role, raw: RawTensor) -> Self {
        let TaskBuilder { tensors, .. } = TaskBuilder::new(role, raw);
        Task { pass: Pass::Bandwidth, tensors, len: raw.len, first: 0, borrow: PhantomData }
    }

    /// A variable can be split into tasks at multiples of this many elements, for every format and rounding.
    pub const ALIGNMENT: usize = 64;

    /// Sets the index of the task's first element in the variable, for a task over a part of a variable.
    ///
    /// # Errors
    /// [`Error::FirstElement`] if `first` is not a multiple of [`ALIGNMENT`](Self::ALIGNMENT).
    #[inline]
    pub fn starting_at(self, first: u64) -> Result<Self, Error> {
        if first.is_multiple_of(Self::ALIGNMENT as u64) {
            Ok(Task { first, ..self })
        } else {
            Err(Error::FirstElement { first })
        }
    }

    /// Returns whether the pass is a step.
    #[cfg(feature = "std")]
    pub(crate) fn is_step(&self) -> bool {
        matches!(self.pass, Pass::Step(_))
    }

    /// Returns the index of the task's first element in the variable.
    pub fn first_element(&self) -> u64 {
        self.first
    }

    /// Replaces the hyperparameters of a step, for the next run.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::UnusedTensor`] if the new step requires other tensors than the task has,
    /// for example because the task is not a step. The task is then unchanged.
    #[inline]
    pub fn set_step(&mut self, step: LionStep) -> Result<(), Error> {
        let pass = Pass::Step(step);
        pass.check(&self.tensors)?;
        self.pass = pass;
        Ok(())
    }

    /// Runs the task on the calling thread.
    ///
    /// # Errors
    /// [`Error::UnavailableBackend`]. Nothing is written then.
    #[inline]
    pub fn run(&mut self, backend: Backend) -> Result<(), Error> {
        let prefetch = Prefetch::Auto.enabled_for(self.bytes());
        // SAFETY: the range is all of the task, which is borrowed exclusively.
        unsafe { self.run_range(backend, prefetch, 0..self.len) }
    }

    /// Runs a range of the task, from a multiple of [`STATISTICS_BLOCK`] on.
    ///
    /// # Errors
    /// The errors of [`run`](Self::run).
    ///
    /// # Safety
    /// The range is within the task, and nothing else reads or writes its elements during the run.
    #[inline(always)]
    pub(crate) unsafe fn run_range(
        &self,
        backend: Backend,
        prefetch: bool,
        range: Range<usize>,
    ) -> Result<(), Error> {
        debug_assert!(
            range.end <= self.len && range.start.is_multiple_of(STATISTICS_BLOCK),
            "{range:?} of {}",
            self.len
        );
        // SAFETY: the constructors checked that the tensors match the pass; this contract covers the rest.
        unsafe { engine::run(backend, prefetch, &self.pass, &self.tensors, self.first, range) }
    }

    /// Returns the number of elements of each tensor.
    #[inline]
    pub fn elements(&self) -> usize {
        self.len
    }

    /// Returns the total bytes of all tensors.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.tensors.bytes(self.len)
    }

    /// Returns the dtypes of parameter, gradient and momentum. For a pass without one of them, the entry is the dtype
    /// of the pass's main tensor.
    pub fn dtypes(&self) -> [Dtype; 3] {
        let of = |role| self.tensors.dtype(role);
        match self.pass {
            Pass::Step(step) if step.follows => {
                [of(Role::Parameter), of(Role::Direction), of(Role::Parameter)]
            }
            Pass::Step(_) => [of(Role::Parameter), of(Role::Gradient), of(Role::Momentum)],
            Pass::Accumulate(_) | Pass::Statistics(..) => [of(Role::Gradient); 3],
            Pass::Ema(_) => [of(Role::Parameter); 3],
            Pass::Convert => [of(Role::Copy), of(Role::Source), of(Role::Copy)],
            Pass::Bandwidth if self.tensors.given().has(Role::Parameter) => {
                [of(Role::Parameter), of(Role::Gradient), of(Role::Momentum)]
            }
            Pass::Bandwidth if self.tensors.given().has(Role::Source) => [of(Role::Source); 3],
            Pass::Bandwidth => [of(Role::Momentum); 3],
        }
    }
}

impl GradientStatistics {
    /// Computes the statistics of a whole gradient on the calling thread: [`Task::statistics`] without a buffer for the
    /// blocks.
    ///
    /// # Errors
    /// The errors of [`Task::statistics`] and [`Task::run`].
    pub fn measure<'a>(
        backend: Backend,
        transform: &GradientTransform,
        gradient: impl Into<TensorRef<'a>>,
        accumulator: Option<&[f32]>,
    ) -> Result<Self, Error> {
        const BATCH: usize = 64;
        let gradient = gradient.into();
        let mut blocks = [GradientStatistics::default(); BATCH];
        let tensors = TaskBuilder::new(Role::Gradient, gradient.raw);
        let tensors = match accumulator {
            Some(sums) => tensors.with(Role::Accumulator, TensorRef::from(sums).raw),
            None => tensors,
        };
        let mut task = tensors.task(Pass::Statistics(*transform, blocks.as_mut_ptr()))?;
        backend.ensure_available()?;
        let mut all = Self::default();
        let mut start = 0;
        while start < task.len {
            let end = task.len.min(start + BATCH * STATISTICS_BLOCK);
            // A pass writes the statistics of block b to entry b. The offset maps this batch's first block to entry 0.
            task.pass =
                Pass::Statistics(*transform, blocks.as_mut_ptr().wrapping_sub(start / STATISTICS_BLOCK));
            // SAFETY: the range is within the task, and has at most as many blocks as the buffer.
            unsafe { task.run_range(backend, false, start..end)? };
            let found = blocks.iter().take((end - start).div_ceil(STATISTICS_BLOCK));
            all = with_ieee_state(|| found.fold(all, |all, block| all.merge_in_ieee_state(block)));
            start = end;
        }
        Ok(all)
    }
}
