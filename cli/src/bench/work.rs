//! The call that is timed, and the streaming limit beside it.

use std::time::Duration;

use lion::{Dtype, Error, Lion, Slice, SliceMut, Update, VariableId};
use lion_autotune::measure::{Comparison, compare};
use lion_kernels::{Arena, Backend, Element, Plan, Task, convert, run};

use super::{Line, Pages, Pipeline};

/// Times a line for about this long.
pub(super) fn measure(line: &Line, time: Duration) -> Result<Comparison, Error> {
    match line.tensors.lengths() {
        &[len] => one(line, len, time),
        _ => many(line, time),
    }
}

/// The call and the limit on the same memory.
fn one(line: &Line, len: usize, time: Duration) -> Result<Comparison, Error> {
    let (mut optimizer, ids) = optimizer(line)?;
    let mut parameter = Tensor::ones(line.pages, line.dtypes.parameter, len)?;
    let gradient = Tensor::ones(line.pages, line.dtypes.gradient, len)?;
    let Some(&id) = ids.first() else { return Err(Error::NoGradients) };
    let mut failed = Ok(());
    // Both are one closure's, because each borrows the optimizer and the parameter.
    let mut call = |limit: bool| {
        let done = if limit {
            let state = optimizer.state_mut(id);
            let (momentum, ema) = state.map_or((None, None), |state| (state.momentum, state.ema));
            match momentum {
                Some(momentum) => stream(line, parameter.slice_mut(), gradient.slice(), momentum, ema),
                None => Ok(()),
            }
        } else {
            optimizer.apply(&mut [Update::new(id, parameter.slice_mut(), gradient.slice())]).map(drop)
        };
        if let (Err(error), Ok(())) = (done, &failed) {
            failed = Err(error);
        }
    };
    let found = compare(time, &mut call, |call| call(false), |call| call(true));
    failed.map(|()| found)
}

/// The call on many tensors, the limit on one of the same bytes.
fn many(line: &Line, time: Duration) -> Result<Comparison, Error> {
    let (mut optimizer, ids) = optimizer(line)?;
    let arena = |dtype| ones(line.pages, dtype, line.tensors.lengths());
    let (mut parameters, gradients) = (arena(line.dtypes.parameter)?, arena(line.dtypes.gradient)?);
    let tensors = parameters.tensors_mut().zip(ids).enumerate();
    let updates = tensors.filter_map(|(index, (p, id))| Some(Update::new(id, p, gradients.tensor(index)?)));
    let mut updates: Vec<_> = updates.collect();

    let whole = |dtype| Tensor::ones(line.pages, dtype, line.tensors.elements());
    let (mut parameter, gradient) = (whole(line.dtypes.parameter)?, whole(line.dtypes.gradient)?);
    // The state is on huge pages whatever the parameters are on.
    let mut momentum = Tensor::ones(Pages::Huge, line.dtypes.momentum, line.tensors.elements())?;
    let mut ema = match line.pipeline {
        Pipeline::Plain => None,
        Pipeline::Full => Some(Tensor::ones(Pages::Huge, Dtype::F32, line.tensors.elements())?),
    };
    let mut failed = Ok(());
    let mut call = |limit: bool| {
        let done = if limit {
            let ema = ema.as_mut().and_then(|ema| single(ema.slice_mut()));
            stream(line, parameter.slice_mut(), gradient.slice(), momentum.slice_mut(), ema)
        } else {
            optimizer.apply(&mut updates).map(drop)
        };
        if let (Err(error), Ok(())) = (done, &failed) {
            failed = Err(error);
        }
    };
    let found = compare(time, &mut call, |call| call(false), |call| call(true));
    failed.map(|()| found)
}

fn single(tensor: SliceMut<'_>) -> Option<&mut [f32]> {
    Element::elements_mut(tensor)
}

/// The line's optimizer, with its variables.
fn optimizer(line: &Line) -> Result<(Lion, Vec<VariableId>), Error> {
    // With a rate that moves no bf16 parameter, the optimizer would warn of that. At 0 a call takes as long.
    let builder = Lion::builder().learning_rate(0.0).momentum_dtype(line.dtypes.momentum).plan(line.plan);
    let builder = match line.pipeline {
        Pipeline::Plain => builder,
        Pipeline::Full => builder.loss_scale_factor(1024.0).global_clipnorm(1.0).weight_decay(0.1).ema(0.99),
    };
    let mut optimizer = builder.build()?;
    let lengths = line.tensors.lengths().iter().enumerate();
    let ids = lengths
        .map(|(index, &len)| optimizer.register(&format!("tensor.{index}"), &[len], line.dtypes.parameter));
    let ids = ids.collect::<Result<_, _>>()?;
    Ok((optimizer, ids))
}

/// The limit: reads and writes what the call must, on the fastest backend and the line's threads.
fn stream(
    line: &Line,
    parameter: SliceMut<'_>,
    gradient: Slice<'_>,
    momentum: SliceMut<'_>,
    ema: Option<&mut [f32]>,
) -> Result<(), Error> {
    let plan: Plan = line.plan.backend(Backend::best());
    if line.pipeline == Pipeline::Full {
        // The norm must be known before the first element is moved.
        run(&plan, &mut [Task::read(gradient)])?;
    }
    let stream = Task::stream(parameter, gradient, momentum)?;
    match ema {
        Some(ema) => run(&plan, &mut [stream, Task::rewrite(ema)])?,
        None => run(&plan, &mut [stream])?,
    }
    Ok(())
}

/// Tensors of ones.
fn ones(pages: Pages, dtype: Dtype, lengths: &[usize]) -> Result<Arena, Error> {
    let mut arena = match pages {
        Pages::Huge => Arena::new(),
        Pages::Small => Arena::on_ordinary_pages(),
    };
    for &len in lengths {
        arena.push(dtype, len)?;
    }
    for tensor in arena.tensors_mut() {
        match tensor {
            SliceMut::F32(tensor) => fill_with_ones(tensor)?,
            SliceMut::F16(tensor) => fill_with_ones(tensor)?,
            SliceMut::BF16(tensor) => fill_with_ones(tensor)?,
        }
    }
    Ok(arena)
}

/// In place: beside tensors that fill the memory there is no room for another of their length.
fn fill_with_ones<T: Element>(tensor: &mut [T]) -> Result<(), Error> {
    let mut one = [T::default()];
    convert(Backend::best(), &[1.0_f32][..], T::slice_mut(&mut one))?;
    let [one] = one;
    tensor.fill(one);
    Ok(())
}

/// One tensor of ones.
struct Tensor(Arena);

impl Tensor {
    fn ones(pages: Pages, dtype: Dtype, len: usize) -> Result<Self, Error> {
        ones(pages, dtype, &[len]).map(Tensor)
    }

    fn slice(&self) -> Slice<'_> {
        self.0.tensor(0).unwrap_or(Slice::F32(&[]))
    }

    fn slice_mut(&mut self) -> SliceMut<'_> {
        self.0.tensor_mut(0).unwrap_or(SliceMut::F32(&mut []))
    }
}
