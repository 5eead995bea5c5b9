//! The native half of `lion_cpu.keras.Lion`: one step over arrays or tensors that Keras's variables hold.
//!
//! Python reads learning rate, accumulation window and averages from Keras's own counters and passes them in one call.
//! Requires every tensor to be in row-major order, which Python ensures and [`read`] checks.

use lion::Profile;
use lion_kernels::{Ema, Error, GradientTransform, LionStep, TensorBuf};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::engine::{Clipping, Cycle, Engine, Failure, Item, Tensors, Threads};
use crate::tensor::Tensor;
use crate::{dlpack, error};

/// Steps of Keras's variables.
#[pyclass(frozen, module = "lion_cpu.keras")]
#[derive(Debug)]
pub(crate) struct KerasSteps {
    engine: Engine,
}

/// A variable's tensors: value, gradient, momentum, accumulator, average.
type Given<'py> = (
    Bound<'py, PyAny>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    bool,
);

struct Work {
    step: LionStep,
    clip: Clipping,
    cycle: Cycle,
    value: Tensor,
    gradient: Option<Gradient>,
    states: [Option<Tensor>; 3],
}

enum Gradient {
    Borrowed(Tensor),
    Copied(TensorBuf),
}

impl Item for Work {
    fn step(&self) -> LionStep {
        self.step
    }

    fn clip(&self) -> Clipping {
        self.clip
    }

    fn cycle(&self) -> Cycle {
        self.cycle
    }

    fn elements(&self) -> usize {
        self.value.shape.iter().product()
    }

    fn has_gradient(&self) -> bool {
        self.gradient.is_some()
    }

    unsafe fn tensors(&mut self) -> Result<Tensors<'_>, Error> {
        let [momentum, accumulator, average] = &mut self.states;
        // SAFETY: by the trait's contract; all are dense.
        unsafe {
            Ok(Tensors {
                parameter: self.value.to_mut(),
                gradient: self.gradient.as_ref().map(|gradient| match gradient {
                    Gradient::Borrowed(gradient) => gradient.to_ref(),
                    Gradient::Copied(gradient) => gradient.to_ref(),
                }),
                states: [
                    momentum.as_mut().map(|it| it.to_mut()),
                    accumulator.as_mut().map(|it| it.to_mut()),
                    average.as_mut().map(|it| it.to_mut()),
                ],
            })
        }
    }
}

#[pymethods]
impl KerasSteps {
    /// `functions` are the addresses of `torch_parallel_for` and `torch_get_num_threads`, or zeros without PyTorch.
    #[new]
    fn new(functions: (usize, usize)) -> PyResult<Self> {
        error::guarded(|| {
            // SAFETY: `lion_cpu.keras` looks the names up in PyTorch's own library.
            let threads = unsafe { Threads::new(functions.0, functions.1) };
            Ok(KerasSteps { engine: Engine { profile: Profile::load(), threads } })
        })
    }

    /// Does a step. `variables` are tuples of value, gradient, momentum, accumulator and average, each but the value may be
    /// None, and whether the variable decays. `clip` is the name of an option and its value. `accumulation` is the number of
    /// gradients of an update, and whether this step updates; `ema` is the momentum, and whether it overwrites.
    #[pyo3(signature = (variables, *, learning_rate, beta_1, beta_2, weight_decay=None, clip=None, accumulation=None,
        ema=None))]
    #[allow(clippy::too_many_arguments)]
    fn step(
        &self,
        py: Python<'_>,
        variables: Vec<Given<'_>>,
        learning_rate: f64,
        beta_1: f64,
        beta_2: f64,
        weight_decay: Option<f64>,
        clip: Option<(String, f64)>,
        accumulation: Option<(u32, bool)>,
        ema: Option<(f64, bool)>,
    ) -> PyResult<()> {
        error::guarded(|| {
            let settings = lion_kernels::with_ieee_state(|| {
                let plain = LionStep::new(learning_rate as f32, beta_1 as f32, beta_2 as f32)?;
                let decaying = match weight_decay {
                    Some(decay) => plain.weight_decay(decay as f32)?,
                    None => plain,
                };
                let ema = ema.map(|(momentum, overwrite)| {
                    Ema::new(momentum as f32).map(|ema| ema.overwrite(overwrite))
                });
                Ok::<_, Error>((plain, decaying, ema.transpose()?))
            });
            let (plain, decaying, ema) = settings.map_err(|error| error::kernels(py, error))?;
            let clip = match clip.as_ref().map(|(name, limit)| (name.as_str(), *limit)) {
                None => Clipping::Off,
                Some(("clipvalue", limit)) => Clipping::Value(limit as f32),
                Some(("clipnorm", limit)) => Clipping::Norm(limit as f32),
                Some(("global_clipnorm", limit)) => Clipping::Global(limit),
                Some((name, _)) => return Err(PyValueError::new_err(format!("{name} is no way to clip"))),
            };
            clip.check().map_err(|error| error::kernels(py, error))?;
            let updates = accumulation.is_none_or(|(_, updates)| updates);
            let cycle =
                Cycle { step: None, accumulation: accumulation.map(|(steps, _)| steps), updates, ema };
            let mut works = Vec::with_capacity(variables.len());
            for (at, (value, gradient, momentum, accumulator, average, decays)) in
                variables.into_iter().enumerate()
            {
                let value = read(at, &value, None)?;
                let like = |tensor: Option<Bound<'_, PyAny>>| {
                    tensor.map(|tensor| read(at, &tensor, Some(&value.shape))).transpose()
                };
                let (gradient, states) =
                    (like(gradient)?, [like(momentum)?, like(accumulator)?, like(average)?]);
                let step = if decays { decaying } else { plain };
                works.push(Work {
                    step,
                    clip,
                    cycle,
                    value,
                    gradient: gradient.map(Gradient::Borrowed),
                    states,
                });
            }
            separate(&mut works).map_err(|failure| failure.raise(py))?;
            let done = py.detach(|| {
                // SAFETY: each tensor keeps its memory; `separate` has seen that they share none.
                unsafe { self.engine.run(&GradientTransform::new(), &mut works) }
            });
            done.map_err(|failure| failure.raise(py))?;
            // An update ends the window of every variable.
            for work in works.iter_mut().filter(|work| cycle.averages() && work.gradient.is_none()) {
                // SAFETY: as above, and nothing else uses it any more.
                let accumulator = work.states[1].as_mut().map(|it| unsafe { it.to_mut() });
                if let Some(values) = accumulator.and_then(lion::TensorMut::into_slice::<f32>) {
                    values.fill(0.0);
                }
            }
            Ok(())
        })
    }
}

/// Reads a tensor in row-major order, of the shape of its variable.
fn read(at: usize, object: &Bound<'_, PyAny>, shape: Option<&[usize]>) -> PyResult<Tensor> {
    let tensor = dlpack::read(object)?;
    if let Some(expected) = shape.filter(|shape| **shape != tensor.shape[..]) {
        let found = &tensor.shape;
        let message =
            format!("variable {at}: a tensor has the shape {found:?}; its variable has {expected:?}");
        return Err(error::tensor(object.py(), &message));
    }
    if !tensor.is_dense() {
        return Err(error::tensor(
            object.py(),
            &format!("variable {at}: a tensor is not in row-major order"),
        ));
    }
    Ok(tensor)
}

/// Refuses written tensors that are read-only or share memory, and copies gradients that share some with them.
fn separate(works: &mut [Work]) -> Result<(), Failure> {
    let mut written = Vec::new();
    for (at, work) in works.iter().enumerate() {
        for tensor in std::iter::once(&work.value).chain(work.states.iter().flatten()) {
            if !tensor.writable {
                return Err(PyValueError::new_err(format!("variable {at}: a tensor is read-only")).into());
            }
            let span = tensor.span();
            if !span.is_empty() {
                written.push((span, at));
            }
        }
    }
    written.sort_unstable_by_key(|(span, _)| span.start);
    for pair in written.windows(2) {
        if let [(first, one), (second, other)] = pair
            && second.start < first.end
        {
            return Err(PyValueError::new_err(format!(
                "tensors of variables {one} and {other} share memory"
            ))
            .into());
        }
    }
    for work in works {
        let Some(Gradient::Borrowed(gradient)) = &work.gradient else { continue };
        let span = gradient.span();
        let after = written.partition_point(|(other, _)| other.end <= span.start);
        if written.get(after).is_some_and(|(other, _)| other.start < span.end) && !span.is_empty() {
            work.gradient = Some(Gradient::Copied(gradient.to_dense()?));
        }
    }
    Ok(())
}
