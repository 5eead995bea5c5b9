//! Steps over tensors whose state is the framework's: which passes the options ask for, and the threads they run on.

mod options;
mod threads;

use lion::Profile;
use lion_autotune::{Dtypes, Operation};
use lion_kernels::{
    Clip, Error, GradientStatistics, GradientTransform, LionStep, STATISTICS_BLOCK, StepTensors, Task,
    TensorMut, TensorRef,
};
use pyo3::prelude::*;

pub(crate) use self::options::{Clipping, Cycle};
pub(crate) use self::threads::Threads;
use crate::error;

/// Why a step did nothing.
pub(crate) enum Failure {
    Kernels(Error),
    Python(PyErr),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Kernels(error)
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Failure::Python(error)
    }
}

impl Failure {
    pub(crate) fn raise(self, py: Python<'_>) -> PyErr {
        match self {
            Failure::Kernels(error) => error::kernels(py, error),
            Failure::Python(error) => error,
        }
    }
}

/// The tensors of a parameter as tasks take them.
pub(crate) struct Tensors<'t> {
    pub(crate) parameter: TensorMut<'t>,
    /// A parameter without one only takes part in its average.
    pub(crate) gradient: Option<TensorRef<'t>>,
    /// Momentum, accumulator, average.
    pub(crate) states: [Option<TensorMut<'t>>; 3],
}

/// A parameter of a step.
pub(crate) trait Item {
    /// Its hyperparameters.
    fn step(&self) -> LionStep;
    /// How its gradient is clipped.
    fn clip(&self) -> Clipping;
    /// Its position in accumulation and average cycles.
    fn cycle(&self) -> Cycle;
    /// Its elements.
    fn elements(&self) -> usize;
    /// Whether it has a gradient in this step.
    fn has_gradient(&self) -> bool;
    /// Its tensors.
    ///
    /// # Errors
    /// [`Error`] if the parts of a tensor do not fit each other.
    ///
    /// # Safety
    /// The tensors live. While they are used, nothing else writes them, or reads those that are written.
    unsafe fn tensors(&mut self) -> Result<Tensors<'_>, Error>;
}

/// How steps are run.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) profile: Profile,
    pub(crate) threads: Threads,
}

impl Engine {
    /// Does a step, whose gradients are divided by the loss scale in `transform`.
    ///
    /// # Safety
    /// The items' tensors live, and share no memory but between gradients, while this runs.
    pub(crate) unsafe fn run<I: Item>(
        &self,
        transform: &GradientTransform,
        works: &mut [I],
    ) -> Result<(), Failure> {
        let clips = self.clips(transform, works)?;
        self.move_all(transform, works, &clips)
    }

    /// Returns the clip of each gradient, after computing the norms that clips need.
    fn clips<I: Item>(
        &self,
        transform: &GradientTransform,
        works: &mut [I],
    ) -> Result<Vec<Option<Clip>>, Failure> {
        let mut own = vec![GradientStatistics::default(); works.len()];
        let mut joint = 0.0;
        let needs = |work: &I| work.clip().needs_norms() && work.cycle().updates && work.has_gradient();
        if works.iter().any(needs) {
            let blocks = |work: &I| if needs(work) { work.elements().div_ceil(STATISTICS_BLOCK) } else { 0 };
            let counts: Vec<usize> = works.iter().map(blocks).collect();
            let mut all = vec![GradientStatistics::default(); counts.iter().sum()];
            let mut rest = &mut all[..];
            let mut tasks = Vec::new();
            for (work, &count) in works.iter_mut().zip(&counts) {
                let (blocks, after) = rest.split_at_mut(count);
                rest = after;
                if !needs(work) {
                    continue;
                }
                let transform = work.cycle().transform(transform)?;
                let averaged = work.cycle().averages();
                // SAFETY: the contract of `run`.
                let Tensors { gradient, states, .. } = unsafe { work.tensors() }?;
                let Some(gradient) = gradient else { continue };
                let [_, accumulator, _] = states;
                let accumulator =
                    accumulator.filter(|_| averaged).and_then(|it| TensorRef::from(it).as_slice::<f32>());
                tasks.push(Task::statistics(&transform, gradient, accumulator, blocks)?);
            }
            self.run_tasks(Operation::Statistics, &mut tasks)?;
            drop(tasks);
            let mut rest = &all[..];
            let mut summed = GradientStatistics::default();
            for ((work, count), own) in works.iter().zip(counts).zip(&mut own) {
                let (blocks, after) = rest.split_at(count);
                rest = after;
                *own = GradientStatistics::from_blocks(blocks);
                if matches!(work.clip(), Clipping::Global(_)) {
                    summed = summed.merge(own);
                }
            }
            joint = summed.norm();
        }
        Ok(works.iter().zip(&own).map(|(work, own)| work.clip().clip(own, joint)).collect())
    }

    /// Steps, or accumulates, every parameter.
    fn move_all<I: Item>(
        &self,
        transform: &GradientTransform,
        works: &mut [I],
        clips: &[Option<Clip>],
    ) -> Result<(), Failure> {
        let mut tasks = Vec::with_capacity(works.len());
        for (work, clip) in works.iter_mut().zip(clips) {
            let (step, cycle) = (work.step(), work.cycle());
            // SAFETY: the contract of `run`.
            let tensors = unsafe { work.tensors() }?;
            push(&mut tasks, transform, step, cycle, *clip, tensors)?;
        }
        self.run_steps(&mut tasks)
    }

    /// Runs the tasks of a step.
    pub(crate) fn run_steps(&self, tasks: &mut [Task<'_>]) -> Result<(), Failure> {
        self.run_tasks(Operation::Step, tasks)
    }

    /// Runs tasks by the plan for tensors like the first.
    fn run_tasks(&self, operation: Operation, tasks: &mut [Task<'_>]) -> Result<(), Failure> {
        let Some(first) = tasks.first() else { return Ok(()) };
        let [parameter, gradient, momentum] = first.dtypes();
        let bytes = tasks.iter().map(Task::bytes).fold(0, usize::saturating_add);
        let plan = *self.profile.plan(operation, Dtypes { parameter, gradient, momentum }, bytes);
        Ok(self.threads.run(&plan, tasks)??)
    }
}

/// The passes over one entry's tensors.
fn push<'t>(
    tasks: &mut Vec<Task<'t>>,
    transform: &GradientTransform,
    step: LionStep,
    cycle: Cycle,
    clip: Option<Clip>,
    tensors: Tensors<'t>,
) -> Result<(), Error> {
    let Tensors { parameter, gradient, states } = tensors;
    let [momentum, accumulator, ema] = states;
    let Some(gradient) = gradient.filter(|_| cycle.updates) else {
        if let (Some(accumulator), Some(gradient)) = (accumulator, gradient) {
            tasks.push(Task::accumulate(transform, accumulator, gradient)?);
        }
        if let (Some(settings), Some(average)) = (cycle.ema, ema) {
            tasks.push(Task::update_ema(&settings, average, parameter)?);
        }
        return Ok(());
    };
    let Some(momentum) = momentum else { return Err(Error::MissingTensor { tensor: "momentum" }) };
    let mut all = StepTensors::in_place(parameter, gradient, momentum);
    let mut step = settings(transform, step, &cycle, clip)?;
    if let (true, Some(accumulator)) = (cycle.averages(), accumulator) {
        all = all.accumulator(accumulator);
    }
    if let (Some(settings), Some(average)) = (cycle.ema, ema) {
        step = step.ema(settings);
        all = all.ema(average);
    }
    tasks.push(Task::step(step, all)?);
    Ok(())
}

/// The settings of a step whose gradient is divided by the loss scale in `transform`, averaged and clipped.
pub(crate) fn settings(
    transform: &GradientTransform,
    step: LionStep,
    cycle: &Cycle,
    clip: Option<Clip>,
) -> Result<LionStep, Error> {
    let transform = cycle.transform(transform)?;
    Ok(step.gradient(match clip {
        Some(clip) => transform.clip(clip)?,
        None => transform,
    }))
}
