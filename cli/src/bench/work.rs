//! The timed work: the optimizer step and the bandwidth bound.

use std::time::Duration;

use lion::{Dtype, Error, Lion, TensorMut, TensorRef, Update, VariableId, VariableStateMut};
use lion_autotune::Dtypes;
use lion_autotune::measure::{Comparison, compare};
use lion_kernels::{Arena, Backend, Plan, STATISTICS_BLOCK, Task, run};

use super::{Line, Pages, Pipeline};

/// Measures a line for about `time`.
pub(super) fn measure(line: &Line, time: Duration) -> Result<Comparison, Error> {
    match line.tensors.lengths() {
        &[len] => one(line, len, time),
        _ => many(line, time),
    }
}

/// Measures one tensor. Step and bound use the same memory, unless the bound has other formats.
fn one(line: &Line, len: usize, time: Duration) -> Result<Comparison, Error> {
    let (mut optimizer, ids) = optimizer(line)?;
    let mut parameter = Tensor::ones(line.pages, line.parameter_dtype(), len)?;
    let gradient = Tensor::ones(line.pages, line.dtypes.gradient, len)?;
    let mut other = line.limit.map(|dtypes| Bound::new(line, dtypes)).transpose()?;
    let Some(&id) = ids.first() else { return Err(Error::NoGradients) };
    let mut failed = Ok(());
    // One closure for both, because each borrows the optimizer and the parameter.
    let mut call = |limit: bool| {
        let done = match (limit, &mut other) {
            (false, _) => {
                optimizer.apply(&mut [Update::new(id, parameter.slice_mut(), gradient.slice())]).map(drop)
            }
            (true, Some(other)) => other.stream(line),
            (true, None) => own_bound(line, optimizer.state_mut(id), parameter.slice_mut(), gradient.slice()),
        };
        if let (Err(error), Ok(())) = (done, &failed) {
            failed = Err(error);
        }
    };
    let found = compare(time, line.calls, &mut call, |call| call(false), |call| call(true));
    failed.map(|()| found)
}

/// Runs the bound on the tensors of the step.
fn own_bound(
    line: &Line,
    state: Option<VariableStateMut<'_>>,
    parameter: TensorMut<'_>,
    gradient: TensorRef<'_>,
) -> Result<(), Error> {
    let Some(VariableStateMut { momentum: Some(momentum), low, ema, .. }) = state else { return Ok(()) };
    let parameter = match low {
        Some(low) => TensorMut::from_streams(Dtype::Split, parameter, low)?,
        None => parameter,
    };
    stream(line, parameter, gradient, momentum, ema.map(TensorMut::from))
}

/// Measures many tensors. The bound uses one tensor with the same number of bytes.
fn many(line: &Line, time: Duration) -> Result<Comparison, Error> {
    let (mut optimizer, ids) = optimizer(line)?;
    let arena = |dtype| ones(line.pages, dtype, line.tensors.lengths());
    let (mut parameters, gradients) = (arena(line.parameter_dtype())?, arena(line.dtypes.gradient)?);
    let tensors = parameters.tensors_mut().zip(ids).enumerate();
    let updates = tensors.filter_map(|(index, (p, id))| Some(Update::new(id, p, gradients.tensor(index)?)));
    let mut updates: Vec<_> = updates.collect();
    let mut limit = Bound::new(line, line.limit.unwrap_or(line.dtypes))?;
    let mut failed = Ok(());
    let mut call = |is_limit: bool| {
        let done = if is_limit { limit.stream(line) } else { optimizer.apply(&mut updates).map(drop) };
        if let (Err(error), Ok(())) = (done, &failed) {
            failed = Err(error);
        }
    };
    let found = compare(time, line.calls, &mut call, |call| call(false), |call| call(true));
    failed.map(|()| found)
}

/// A bandwidth bound with its own memory.
struct Bound {
    parameter: Tensor,
    gradient: Tensor,
    momentum: Tensor,
    ema: Option<Tensor>,
}

impl Bound {
    fn new(line: &Line, dtypes: Dtypes) -> Result<Self, Error> {
        // The optimizer's state uses huge pages, even if the parameters do not.
        let whole = |pages, dtype| Tensor::ones(pages, dtype, line.tensors.elements());
        Ok(Bound {
            parameter: whole(line.pages, dtypes.parameter)?,
            gradient: whole(line.pages, dtypes.gradient)?,
            momentum: whole(Pages::Huge, dtypes.momentum)?,
            ema: match line.pipeline {
                Pipeline::Plain => None,
                Pipeline::Full => Some(whole(Pages::Huge, Dtype::F32)?),
            },
        })
    }

    fn stream(&mut self, line: &Line) -> Result<(), Error> {
        let Bound { parameter, gradient, momentum, ema } = self;
        let ema = ema.as_mut().map(Tensor::slice_mut);
        stream(line, parameter.slice_mut(), gradient.slice(), momentum.slice_mut(), ema)
    }
}

/// Builds the optimizer of a line and registers its variables.
fn optimizer(line: &Line) -> Result<(Lion, Vec<VariableId>), Error> {
    // With a small learning rate the optimizer would warn that bf16 parameters do not move. With 0 a step takes as long.
    let builder = Lion::builder().learning_rate(0.0).momentum_dtype(line.dtypes.momentum).plan(line.plan);
    let builder = match line.pipeline {
        Pipeline::Plain => builder,
        Pipeline::Full => builder.loss_scale_factor(1024.0).global_clipnorm(1.0).weight_decay(0.1).ema(0.99),
    };
    let builder = builder.split_master(line.dtypes.parameter == Dtype::Split);
    let builder = if line.stochastic { builder.stochastic_rounding(1) } else { builder };
    let mut optimizer = builder.build()?;
    let lengths = line.tensors.lengths().iter().enumerate();
    let ids = lengths
        .map(|(index, &len)| optimizer.register(&format!("tensor.{index}"), &[len], line.parameter_dtype()));
    let ids = ids.collect::<Result<_, _>>()?;
    Ok((optimizer, ids))
}

/// Runs the bound: reads and writes the bytes that a step must move, on the fastest backend and the line's threads.
fn stream(
    line: &Line,
    parameter: TensorMut<'_>,
    gradient: TensorRef<'_>,
    momentum: TensorMut<'_>,
    ema: Option<TensorMut<'_>>,
) -> Result<(), Error> {
    let plan: Plan = line.plan.backend(Backend::best());
    if line.pipeline == Pipeline::Full {
        // A step needs the norm before it writes the first element, so it reads the gradient twice.
        run(&plan, &mut [Task::bandwidth_read(gradient)])?;
    }
    let stream = Task::bandwidth_step(parameter, gradient, momentum)?;
    match ema {
        Some(ema) => run(&plan, &mut [stream, Task::bandwidth_rewrite(ema)])?,
        None => run(&plan, &mut [stream])?,
    }
    Ok(())
}

/// Allocates tensors of ones.
fn ones(pages: Pages, dtype: Dtype, lengths: &[usize]) -> Result<Arena, Error> {
    let mut arena = match pages {
        Pages::Huge => Arena::new(),
        Pages::Small => Arena::without_huge_pages(),
    };
    for &len in lengths {
        arena.push(dtype, len)?;
    }
    for tensor in arena.tensors_mut() {
        fill_with_ones(tensor)?;
    }
    Ok(arena)
}

/// Works in place: if tensors fill the memory, there is no room for a second one of their length.
fn fill_with_ones(mut tensor: TensorMut<'_>) -> Result<(), Error> {
    let len = tensor.len();
    for start in (0..len).step_by(STATISTICS_BLOCK) {
        let part = tensor.reborrow().range(start..len.min(start + STATISTICS_BLOCK))?;
        Task::convert(&[1.0_f32; STATISTICS_BLOCK][..part.len()], part)?.run(Backend::best())?;
    }
    Ok(())
}

/// A tensor in its own memory, filled with ones.
struct Tensor(Arena);

impl Tensor {
    fn ones(pages: Pages, dtype: Dtype, len: usize) -> Result<Self, Error> {
        ones(pages, dtype, &[len]).map(Tensor)
    }

    fn slice(&self) -> TensorRef<'_> {
        self.0.tensor(0).unwrap_or(TensorRef::empty(Dtype::F32))
    }

    fn slice_mut(&mut self) -> TensorMut<'_> {
        self.0.tensor_mut(0).unwrap_or(TensorMut::empty(Dtype::F32))
    }
}
