//! One pass over the tensors of one variable, as data: it can be cut, put in a list, and run by any thread.

use core::mem;

use crate::Error;
use crate::dispatch::Backend;
use crate::element::{Dtype, Slice, SliceMut};
use crate::elementwise::{accumulate, average, convert};
use crate::error::same_length;
use crate::limit::{read, rewrite, stream};
use crate::settings::{Ema, Gradient, Step};
use crate::statistics::{BLOCK, Statistics, block_statistics, check_blocks};
use crate::step::{Stepping, Tensors, apply_all};

/// A pass that is yet to be made. [`run`](crate::run()) makes a list of them; none may depend on another's result.
///
/// ```
/// use lion_kernels::{Backend, Plan, Step, Task, Tensors, run};
///
/// let (mut kernel, mut bias) = (vec![1.0_f32; 8192], vec![1.0_f32; 64]);
/// let (mut of_kernel, mut of_bias) = (vec![0.0_f32; 8192], vec![0.0_f32; 64]);
/// let gradient = vec![0.5_f32; 8192];
///
/// let step = Step::new(0.25, 0.9, 0.99)?;
/// let mut tasks = [
///     Task::step(step.weight_decay(0.1)?, Tensors::in_place(&mut kernel, &gradient, &mut of_kernel))?,
///     Task::step(step, Tensors::in_place(&mut bias, &gradient[..64], &mut of_bias))?,
/// ];
/// run(&Plan::new(Backend::best()), &mut tasks)?;
/// assert_eq!((kernel[0], bias[0]), (0.725, 0.75));
/// # Ok::<(), lion_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Task<'a>(Pass<'a>);

#[derive(Debug)]
enum Pass<'a> {
    Step(Stepping<'a>),
    Accumulate(Gradient, &'a mut [f32], Slice<'a>),
    Average(Ema, &'a mut [f32], SliceMut<'a>),
    Convert(Slice<'a>, SliceMut<'a>),
    Statistics(Gradient, Slice<'a>, Option<&'a [f32]>, &'a mut [Statistics]),
    Stream(SliceMut<'a>, Slice<'a>, SliceMut<'a>),
    Read(Slice<'a>),
    Rewrite(SliceMut<'a>),
}

impl<'a> From<Stepping<'a>> for Task<'a> {
    #[inline(always)]
    fn from(stepping: Stepping<'a>) -> Self {
        Task(Pass::Step(stepping))
    }
}

impl<'a> Task<'a> {
    /// [`Step::apply`].
    ///
    /// # Errors
    /// Where the tensors do not fit each other or the settings.
    #[inline]
    pub fn step(step: Step, tensors: Tensors<'a>) -> Result<Self, Error> {
        Ok(Self::from(Stepping::new(step, tensors)?))
    }

    /// [`accumulate`](crate::accumulate()).
    ///
    /// # Errors
    /// [`Error::Length`] where the lengths differ.
    pub fn accumulate(
        settings: &Gradient,
        accumulator: &'a mut [f32],
        gradient: impl Into<Slice<'a>>,
    ) -> Result<Self, Error> {
        let gradient = gradient.into();
        same_length("gradient", gradient.len(), "accumulator", accumulator.len())?;
        Ok(Task(Pass::Accumulate(*settings, accumulator, gradient)))
    }

    /// [`average`](crate::average()).
    ///
    /// # Errors
    /// [`Error::Length`] where the lengths differ.
    pub fn average(
        ema: &Ema,
        average: &'a mut [f32],
        parameter: impl Into<SliceMut<'a>>,
    ) -> Result<Self, Error> {
        let parameter = parameter.into();
        same_length("EMA", average.len(), "parameter", parameter.len())?;
        Ok(Task(Pass::Average(*ema, average, parameter)))
    }

    /// [`convert`](crate::convert()).
    ///
    /// # Errors
    /// [`Error::Length`] where the lengths differ.
    pub fn convert(source: impl Into<Slice<'a>>, target: impl Into<SliceMut<'a>>) -> Result<Self, Error> {
        let (source, target) = (source.into(), target.into());
        same_length("target", target.len(), "source", source.len())?;
        Ok(Task(Pass::Convert(source, target)))
    }

    /// [`block_statistics`](crate::block_statistics()).
    ///
    /// # Errors
    /// As there, but for the backend.
    pub fn statistics(
        settings: &Gradient,
        gradient: impl Into<Slice<'a>>,
        accumulator: Option<&'a [f32]>,
        blocks: &'a mut [Statistics],
    ) -> Result<Self, Error> {
        let gradient = gradient.into();
        check_blocks(settings, &gradient, accumulator, blocks)?;
        Ok(Task(Pass::Statistics(*settings, gradient, accumulator, blocks)))
    }

    /// [`stream`](crate::stream()).
    ///
    /// # Errors
    /// [`Error::Length`] where the lengths differ.
    pub fn stream(
        parameter: impl Into<SliceMut<'a>>,
        gradient: impl Into<Slice<'a>>,
        momentum: impl Into<SliceMut<'a>>,
    ) -> Result<Self, Error> {
        let (parameter, gradient, momentum) = (parameter.into(), gradient.into(), momentum.into());
        same_length("gradient", gradient.len(), "parameter", parameter.len())?;
        same_length("momentum", momentum.len(), "parameter", parameter.len())?;
        Ok(Task(Pass::Stream(parameter, gradient, momentum)))
    }

    /// Reads a tensor, for nothing: the streaming limit of a pass that only reads.
    pub fn read(tensor: impl Into<Slice<'a>>) -> Self {
        Task(Pass::Read(tensor.into()))
    }

    /// Reads a tensor and writes its complement, as cheaply as can be: the streaming limit of a tensor that a pass
    /// reads and writes. Twice on one backend, it leaves the tensor as it was.
    pub fn rewrite(tensor: impl Into<SliceMut<'a>>) -> Self {
        Task(Pass::Rewrite(tensor.into()))
    }

    /// Elements of each of its tensors.
    pub fn elements(&self) -> usize {
        match &self.0 {
            Pass::Step(stepping) => stepping.len(),
            Pass::Accumulate(_, tensor, _) | Pass::Average(_, tensor, _) => tensor.len(),
            Pass::Convert(tensor, _) | Pass::Statistics(_, tensor, ..) | Pass::Read(tensor) => tensor.len(),
            Pass::Stream(tensor, ..) | Pass::Rewrite(tensor) => tensor.len(),
        }
    }

    /// Bytes of its tensors together.
    pub fn bytes(&self) -> usize {
        let each = match &self.0 {
            Pass::Step(stepping) => stepping.bytes_per_element(),
            Pass::Accumulate(_, _, other) => size_of::<f32>() + other.dtype().size(),
            Pass::Average(_, _, other) => size_of::<f32>() + other.dtype().size(),
            Pass::Convert(source, target) => source.dtype().size() + target.dtype().size(),
            Pass::Statistics(_, gradient, accumulator, _) => {
                gradient.dtype().size() + accumulator.map_or(0, |_| size_of::<f32>())
            }
            Pass::Stream(p, g, m) => p.dtype().size() + g.dtype().size() + m.dtype().size(),
            Pass::Read(tensor) => tensor.dtype().size(),
            Pass::Rewrite(tensor) => tensor.dtype().size(),
        };
        self.elements() * each
    }

    /// The formats of parameter, gradient and momentum; of a pass that lacks one, that of the tensor it is about.
    pub fn dtypes(&self) -> [Dtype; 3] {
        match &self.0 {
            Pass::Step(stepping) => stepping.dtypes(),
            Pass::Accumulate(_, _, gradient) | Pass::Statistics(_, gradient, ..) => [gradient.dtype(); 3],
            Pass::Average(_, _, parameter) => [parameter.dtype(); 3],
            Pass::Convert(source, target) => [target.dtype(), source.dtype(), target.dtype()],
            Pass::Stream(parameter, gradient, momentum) => {
                [parameter.dtype(), gradient.dtype(), momentum.dtype()]
            }
            Pass::Read(tensor) => [tensor.dtype(); 3],
            Pass::Rewrite(tensor) => [tensor.dtype(); 3],
        }
    }

    /// Takes elements off the front, as a task of their own, for callers who spread tasks over threads themselves: at
    /// least as many as asked for, in whole blocks of [`BLOCK`] so that statistics have the same bits, and at most
    /// all.
    #[must_use]
    pub fn take_front(&mut self, elements: usize) -> Task<'a> {
        let blocks = elements.checked_next_multiple_of(BLOCK).unwrap_or(usize::MAX);
        let middle = blocks.min(self.elements());
        let (head, tail) = mem::replace(&mut self.0, Pass::Read(Slice::F32(&[]))).split_at(middle);
        self.0 = tail;
        Task(head)
    }

    #[inline(always)]
    pub(crate) fn stepping(&self) -> Option<&Stepping<'a>> {
        match &self.0 {
            Pass::Step(stepping) => Some(stepping),
            _ => None,
        }
    }

    #[inline(always)]
    pub(crate) fn stepping_mut(&mut self) -> Option<&mut Stepping<'a>> {
        match &mut self.0 {
            Pass::Step(stepping) => Some(stepping),
            _ => None,
        }
    }
}

impl Pass<'_> {
    fn split_at(self, middle: usize) -> (Self, Self) {
        match self {
            Pass::Step(stepping) => {
                let (head, tail) = stepping.split_at(middle);
                (Pass::Step(head), Pass::Step(tail))
            }
            Pass::Accumulate(settings, accumulator, gradient) => {
                let ((a, b), (g, h)) = (accumulator.split_at_mut(middle), gradient.split_at(middle));
                (Pass::Accumulate(settings, a, g), Pass::Accumulate(settings, b, h))
            }
            Pass::Average(ema, average, parameter) => {
                let ((a, b), (p, q)) = (average.split_at_mut(middle), parameter.split_at(middle));
                (Pass::Average(ema, a, p), Pass::Average(ema, b, q))
            }
            Pass::Convert(source, target) => {
                let ((s, r), (t, u)) = (source.split_at(middle), target.split_at(middle));
                (Pass::Convert(s, t), Pass::Convert(r, u))
            }
            Pass::Statistics(settings, gradient, accumulator, blocks) => {
                let (g, h) = gradient.split_at(middle);
                let (a, b) = accumulator.map(|accumulator| accumulator.split_at(middle)).unzip();
                let (s, t) = blocks.split_at_mut(middle.div_ceil(BLOCK));
                (Pass::Statistics(settings, g, a, s), Pass::Statistics(settings, h, b, t))
            }
            Pass::Stream(parameter, gradient, momentum) => {
                let ((p, q), (g, h)) = (parameter.split_at(middle), gradient.split_at(middle));
                let (m, n) = momentum.split_at(middle);
                (Pass::Stream(p, g, m), Pass::Stream(q, h, n))
            }
            Pass::Read(tensor) => {
                let (head, tail) = tensor.split_at(middle);
                (Pass::Read(head), Pass::Read(tail))
            }
            Pass::Rewrite(tensor) => {
                let (head, tail) = tensor.split_at(middle);
                (Pass::Rewrite(head), Pass::Rewrite(tail))
            }
        }
    }

    fn run(&mut self, backend: Backend) -> Result<(), Error> {
        match self {
            // A list makes these.
            Pass::Step(_) => Ok(()),
            Pass::Accumulate(settings, accumulator, gradient) => {
                accumulate(backend, settings, accumulator, *gradient)
            }
            Pass::Average(ema, values, parameter) => average(backend, ema, values, parameter.reborrow()),
            Pass::Convert(source, target) => convert(backend, *source, target.reborrow()),
            Pass::Statistics(settings, gradient, accumulator, blocks) => {
                block_statistics(backend, settings, *gradient, *accumulator, blocks)
            }
            Pass::Stream(p, g, m) => stream(backend, p.reborrow(), *g, m.reborrow()),
            Pass::Read(tensor) => read(backend, *tensor),
            Pass::Rewrite(tensor) => rewrite(backend, tensor.reborrow()),
        }
    }
}

/// Runs a list on the calling thread. Steps of the same form that follow each other share one dispatch.
pub(crate) fn run_in_turn(backend: Backend, prefetch: bool, mut list: &mut [Task<'_>]) -> Result<(), Error> {
    while let Some(first) = list.first_mut() {
        let alike = match first.stepping().map(Stepping::form) {
            Some(form) => {
                let same = |task: &&Task<'_>| task.stepping().is_some_and(|other| other.form() == form);
                list.iter().take_while(same).count()
            }
            None => {
                first.0.run(backend)?;
                1
            }
        };
        let (run, rest) = list.split_at_mut(alike);
        apply_all(backend, prefetch, run)?;
        list = rest;
    }
    Ok(())
}
