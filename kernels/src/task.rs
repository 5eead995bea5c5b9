//! A task: one pass over one variable, or over a part of one. It can be queued, cut and run on any thread, and run again.
//!
//! A [`Task`] holds the settings of its pass and the addresses of its tensors, without their types. All that can be wrong
//! is found when it is made, so running it can fail for want of a backend only. It knows which element of the variable
//! is its first, and keeps that knowledge when work is cut: cuts lie at multiples of [`BLOCK`] elements of the variable.
//!
//! The tensors stay borrowed while the task lives. It may be run any number of times; [`Task::set_step`] gives it the
//! next step's hyperparameters, so that a caller whose tensors stay where they are prepares a list once.

use core::marker::PhantomData;
use core::ops::Range;

use crate::column::{Column, TensorMut, TensorRef};
use crate::dispatch::Backend;
use crate::engine;
use crate::error::{Error, same_length};
use crate::float_state::with_ieee_state;
use crate::format::Dtype;
use crate::pass::{Columns, Pass};
use crate::plan::Prefetch;
use crate::role::Role;
use crate::settings::{Ema, GradientTransform, LionStep};
use crate::statistics::{BLOCK, GradientStatistics};

/// Tensors for a task that is about to be made, and what is wrong with them so far.
#[derive(Debug)]
struct Tensors<'a> {
    columns: Columns,
    /// Of the first tensor.
    reference: (Role, usize),
    wrong_length: Option<(Role, usize)>,
    borrow: PhantomData<&'a mut [u8]>,
}

impl<'a> Tensors<'a> {
    #[inline(always)]
    fn new(reference: Role, column: Column) -> Self {
        let mut columns = Columns::none();
        columns.insert(reference, column);
        Tensors { columns, reference: (reference, column.len), wrong_length: None, borrow: PhantomData }
    }

    #[inline(always)]
    fn with(mut self, role: Role, column: Column) -> Self {
        if column.len != self.reference.1 && self.wrong_length.is_none() {
            self.wrong_length = Some((role, column.len));
        }
        self.columns.insert(role, column);
        self
    }

    /// The one place where tensors are held against what a pass needs.
    #[inline(always)]
    fn task(self, pass: Pass) -> Result<Task<'a>, Error> {
        let (reference, len) = self.reference;
        if let Some((role, found)) = self.wrong_length {
            same_length(role.name(), found, reference.name(), len)?;
        }
        pass.check(&self.columns)?;
        Ok(Task { pass, columns: self.columns, len, first: 0, borrow: PhantomData })
    }
}

/// The tensors of one step, all of the same length, each of any format.
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
pub struct StepTensors<'a>(Tensors<'a>);

impl<'a> StepTensors<'a> {
    /// A step that overwrites the parameter.
    #[inline]
    pub fn in_place(
        parameter: impl Into<TensorMut<'a>>,
        gradient: impl Into<TensorRef<'a>>,
        momentum: impl Into<TensorMut<'a>>,
    ) -> Self {
        let tensors = Tensors::new(Role::Parameter, parameter.into().column);
        StepTensors(
            tensors.with(Role::Gradient, gradient.into().column).with(Role::Momentum, momentum.into().column),
        )
    }

    /// A step that reads the parameter in one tensor and writes it to another of the same format.
    #[inline]
    pub fn out_of_place(
        source: impl Into<TensorRef<'a>>,
        parameter: impl Into<TensorMut<'a>>,
        gradient: impl Into<TensorRef<'a>>,
        momentum: impl Into<TensorMut<'a>>,
    ) -> Self {
        StepTensors(Self::in_place(parameter, gradient, momentum).0.with(Role::Source, source.into().column))
    }

    /// The sum of earlier gradients, which [`GradientTransform::average_over`](crate::GradientTransform::average_over)
    /// asks for and the step clears.
    #[inline]
    pub fn accumulator(self, accumulator: impl Into<TensorMut<'a>>) -> Self {
        StepTensors(self.0.with(Role::Accumulator, accumulator.into().column))
    }

    /// The moving average of the parameter, which [`LionStep::ema`] asks for.
    #[inline]
    pub fn ema(self, ema: impl Into<TensorMut<'a>>) -> Self {
        StepTensors(self.0.with(Role::Ema, ema.into().column))
    }

    /// Also writes the stored parameter to `copy`, in any dtype: a 16-bit working copy of an f32 master.
    #[inline]
    pub fn copy(self, copy: impl Into<TensorMut<'a>>) -> Self {
        StepTensors(self.0.with(Role::Copy, copy.into().column))
    }

    /// Also writes the step's direction, in f32, f16 or bf16: the sign of `c`, which is -1, 0, 1 or NaN. Such a step runs
    /// through tiles. [`Task::follow`] makes the same move on another copy of the parameter.
    #[inline]
    pub fn direction(self, direction: impl Into<TensorMut<'a>>) -> Self {
        StepTensors(self.0.with(Role::Direction, direction.into().column))
    }
}

/// One pass over the tensors of one variable. [`run`](crate::run()) runs a list of them; no task of a list may depend on
/// the result of another.
///
/// ```
/// use lion_kernels::{Backend, LionStep, Plan, StepTensors, Task, run};
///
/// let (mut kernel, mut bias) = (vec![1.0_f32; 8192], vec![1.0_f32; 64]);
/// let (mut of_kernel, mut of_bias) = (vec![0.0_f32; 8192], vec![0.0_f32; 64]);
/// let gradient = vec![0.5_f32; 8192];
///
/// let step = LionStep::new(0.25, 0.9, 0.99)?;
/// let mut tasks = [
///     Task::step(step.weight_decay(0.1)?, StepTensors::in_place(&mut kernel, &gradient, &mut of_kernel))?,
///     Task::step(step, StepTensors::in_place(&mut bias, &gradient[..64], &mut of_bias))?,
/// ];
/// run(&Plan::new(Backend::best()), &mut tasks)?;
/// assert_eq!((kernel[0], bias[0]), (0.725, 0.75));
/// # Ok::<(), lion_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Task<'a> {
    pass: Pass,
    columns: Columns,
    len: usize,
    first: u64,
    borrow: PhantomData<&'a mut [u8]>,
}

// SAFETY: it stands for borrows of plain numbers, which other threads may hold.
unsafe impl Send for Task<'_> {}
// SAFETY: what is public of a shared task reads no tensor. The crate itself runs disjoint ranges of one.
unsafe impl Sync for Task<'_> {}

impl<'a> Task<'a> {
    /// A Lion step.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::SourceDtype`], [`Error::Format`], [`Error::MissingTensor`] or
    /// [`Error::UnusedTensor`] if the tensors do not fit each other or the settings.
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
        let tensors = Tensors::new(Role::Parameter, parameter.into().column);
        let tensors = tensors.with(Role::Direction, directions.into().column);
        tensors.task(Pass::Step(step.along_directions()))
    }

    /// Adds a gradient to its accumulator: `accumulator = gradient / loss_scale + accumulator`, in f32.
    ///
    /// Of `transform` only the loss scale is used; averaging and clipping belong to the step.
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn accumulate(
        transform: &GradientTransform,
        accumulator: impl Into<TensorMut<'a>>,
        gradient: impl Into<TensorRef<'a>>,
    ) -> Result<Self, Error> {
        let tensors = Tensors::new(Role::Accumulator, accumulator.into().column);
        tensors.with(Role::Gradient, gradient.into().column).task(Pass::Accumulate(*transform))
    }

    /// Updates the moving average of a parameter, and writes it to the parameter if `ema` overwrites.
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn update_ema(
        ema: &Ema,
        average: impl Into<TensorMut<'a>>,
        parameter: impl Into<TensorMut<'a>>,
    ) -> Result<Self, Error> {
        let tensors = Tensors::new(Role::Parameter, parameter.into().column);
        tensors.with(Role::Ema, average.into().column).task(Pass::Ema(*ema))
    }

    /// Converts a tensor to another format: exactly if the format holds the value, else rounded to nearest even.
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn convert(source: impl Into<TensorRef<'a>>, copy: impl Into<TensorMut<'a>>) -> Result<Self, Error> {
        let tensors = Tensors::new(Role::Source, source.into().column);
        tensors.with(Role::Copy, copy.into().column).task(Pass::Convert)
    }

    /// The statistics of each block of a gradient, as `transform` divides it by the loss scale and averages it with the
    /// accumulator. Its clip is not applied: the norm that a clip needs is found here.
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
    /// not fit, [`Error::Blocks`] if `blocks` does not have `gradient.len().div_ceil(BLOCK)` places.
    pub fn statistics(
        transform: &GradientTransform,
        gradient: impl Into<TensorRef<'a>>,
        accumulator: Option<&'a [f32]>,
        blocks: &'a mut [GradientStatistics],
    ) -> Result<Self, Error> {
        let gradient = gradient.into().column;
        let mut tensors = Tensors::new(Role::Gradient, gradient);
        if let Some(accumulator) = accumulator {
            tensors = tensors.with(Role::Accumulator, TensorRef::from(accumulator).column);
        }
        let task = tensors.task(Pass::Statistics(*transform, blocks.as_mut_ptr()))?;
        let (found, elements) = (blocks.len(), gradient.len);
        let expected = elements.div_ceil(BLOCK);
        if found == expected { Ok(task) } else { Err(Error::Blocks { found, expected, elements }) }
    }

    /// Moves the bytes of a step as cheaply as possible, to measure a step against: reads the gradient, rewrites
    /// parameter and momentum with each bit flipped. Running it twice leaves the tensors as they were.
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

    /// Reads and discards a tensor, to measure bandwidth.
    pub fn bandwidth_read(tensor: impl Into<TensorRef<'a>>) -> Self {
        Self::bandwidth(Role::Source, tensor.into().column)
    }

    /// Reads a tensor and writes it with each bit flipped, to measure bandwidth. Running it twice leaves the tensor as it
    /// was.
    pub fn bandwidth_rewrite(tensor: impl Into<TensorMut<'a>>) -> Self {
        Self::bandwidth(Role::Momentum, tensor.into().column)
    }

    fn bandwidth(role: Role, column: Column) -> Self {
        let Tensors { columns, .. } = Tensors::new(role, column);
        Task { pass: Pass::Bandwidth, columns, len: column.len, first: 0, borrow: PhantomData }
    }

    /// The multiples at which a variable can be cut into tasks whatever its formats, also if it is rounded at random.
    pub const ALIGNMENT: usize = 64;

    /// Says which element of the variable is the task's first, for a task over a part of a variable.
    ///
    /// # Errors
    /// [`Error::FirstElement`] if it is not a multiple of [`ALIGNMENT`](Self::ALIGNMENT).
    #[inline]
    pub fn starting_at(self, first: u64) -> Result<Self, Error> {
        if first.is_multiple_of(Self::ALIGNMENT as u64) {
            Ok(Task { first, ..self })
        } else {
            Err(Error::FirstElement { first })
        }
    }

    /// The index in the variable of the task's first element.
    pub fn first_element(&self) -> u64 {
        self.first
    }

    /// Gives the task of a step other hyperparameters, for the next run.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::UnusedTensor`] if the step needs other tensors than the task has. A task that
    /// is not a step needs none of a step's. The task is then as it was.
    #[inline]
    pub fn set_step(&mut self, step: LionStep) -> Result<(), Error> {
        let pass = Pass::Step(step);
        pass.check(&self.columns)?;
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

    /// Runs some elements of the task, from a multiple of [`BLOCK`] on.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Safety
    /// The range is within the task, and while this runs nothing else reads or writes those elements.
    #[inline(always)]
    pub(crate) unsafe fn run_range(
        &self,
        backend: Backend,
        prefetch: bool,
        range: Range<usize>,
    ) -> Result<(), Error> {
        debug_assert!(
            range.end <= self.len && range.start.is_multiple_of(BLOCK),
            "{range:?} of {}",
            self.len
        );
        // SAFETY: the tensors fit the pass, which was checked when the task was made; the rest is this contract's.
        unsafe { engine::run(backend, prefetch, &self.pass, &self.columns, self.first, range) }
    }

    /// Elements of each of its tensors.
    #[inline]
    pub fn elements(&self) -> usize {
        self.len
    }

    /// Bytes of its tensors together.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.columns.bytes(self.len)
    }

    /// The dtypes of parameter, gradient and momentum. A pass without one of them has that of the tensor it is about.
    pub fn dtypes(&self) -> [Dtype; 3] {
        let of = |role| self.columns.dtype(role);
        match self.pass {
            Pass::Step(step) if step.follows => {
                [of(Role::Parameter), of(Role::Direction), of(Role::Parameter)]
            }
            Pass::Step(_) => [of(Role::Parameter), of(Role::Gradient), of(Role::Momentum)],
            Pass::Accumulate(_) | Pass::Statistics(..) => [of(Role::Gradient); 3],
            Pass::Ema(_) => [of(Role::Parameter); 3],
            Pass::Convert => [of(Role::Copy), of(Role::Source), of(Role::Copy)],
            Pass::Bandwidth if self.columns.given().has(Role::Parameter) => {
                [of(Role::Parameter), of(Role::Gradient), of(Role::Momentum)]
            }
            Pass::Bandwidth if self.columns.given().has(Role::Source) => [of(Role::Source); 3],
            Pass::Bandwidth => [of(Role::Momentum); 3],
        }
    }
}

impl GradientStatistics {
    /// The statistics of a whole gradient, on the calling thread: [`Task::statistics`] without memory for its blocks.
    ///
    /// # Errors
    /// As [`Task::statistics`] and [`Task::run`].
    pub fn measure<'a>(
        backend: Backend,
        transform: &GradientTransform,
        gradient: impl Into<TensorRef<'a>>,
        accumulator: Option<&[f32]>,
    ) -> Result<Self, Error> {
        const AT_A_TIME: usize = 64;
        let gradient = gradient.into();
        let mut blocks = [GradientStatistics::default(); AT_A_TIME];
        let tensors = Tensors::new(Role::Gradient, gradient.column);
        let tensors = match accumulator {
            Some(sums) => tensors.with(Role::Accumulator, TensorRef::from(sums).column),
            None => tensors,
        };
        let mut task = tensors.task(Pass::Statistics(*transform, blocks.as_mut_ptr()))?;
        backend.ensure_available()?;
        let mut all = Self::default();
        let mut start = 0;
        while start < task.len {
            let end = task.len.min(start + AT_A_TIME * BLOCK);
            // A pass writes the statistics of its element n to the place n / BLOCK.
            task.pass = Pass::Statistics(*transform, blocks.as_mut_ptr().wrapping_sub(start / BLOCK));
            // SAFETY: the range is within the task, and has no more blocks than there are places.
            unsafe { task.run_range(backend, false, start..end)? };
            let found = blocks.iter().take((end - start).div_ceil(BLOCK));
            all = with_ieee_state(|| found.fold(all, |all, block| all.followed_by(block)));
            start = end;
        }
        Ok(all)
    }
}
