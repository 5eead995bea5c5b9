//! The hyperparameters of a parameter group, read from its dict in every step: schedulers and people write them there.

use lion::DecayScale;
use lion_kernels::{Clip, Ema, Error, GradientTransform, LionStep, StochasticRounding};
use pyo3::exceptions::{PyKeyError, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyString};

use crate::engine::{Clipping, Cycle};

/// A group's step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) step: LionStep,
    pub(super) clip: Clipping,
    /// How many gradients make an update.
    accumulation: Option<u32>,
    /// The momentum of the parameters' average, and after how many updates it overwrites them.
    ema: Option<(f32, Option<u64>)>,
    /// How parameters and momenta are stored.
    pub(super) formats: Formats,
}

/// The formats that a group's options ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Formats {
    /// The seed with which parameters are rounded at random.
    pub(super) seed: Option<u64>,
    /// Whether a parameter has its low half in the state.
    pub(super) split: bool,
    /// Whether momenta have eight bits; nothing if they stay as they are.
    pub(super) narrow: Option<bool>,
}

impl Group {
    pub(super) fn read(group: &Bound<'_, PyDict>, loss_scale: Option<f32>) -> PyResult<Self> {
        let py = group.py();

        let lr = number(&item(group, intern!(py, "lr"))?)?;
        let (beta_1, beta_2) =
            item(group, intern!(py, "betas"))?.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
        let (beta_1, beta_2) = (number(&beta_1)?, number(&beta_2)?);
        let decay = number(&item(group, intern!(py, "weight_decay"))?)?;
        let optional = |key: &Bound<'_, _>| match group.get_item(key)? {
            Some(value) if !value.is_none() => number(&value).map(Some),
            _ => Ok(None),
        };
        let flag = |key: &Bound<'_, _>| group.get_item(key)?.map_or(Ok(false), |value| value.is_truthy());
        for key in [intern!(py, "capturable"), intern!(py, "differentiable")] {
            if flag(key)? {
                return Err(PyRuntimeError::new_err(format!("Lion does not support {key}")));
            }
        }
        if !(lr >= 0.0 && (lr as f32).is_finite()) {
            return Err(PyValueError::new_err(format!("Invalid learning rate: {lr}")));
        }
        for (index, beta) in [beta_1, beta_2].into_iter().enumerate() {
            if !(0.0..=1.0).contains(&beta) {
                return Err(PyValueError::new_err(format!(
                    "Invalid beta parameter at index {index}: {beta}"
                )));
            }
        }
        if !(decay >= 0.0 && (decay as f32).is_finite()) {
            return Err(PyValueError::new_err(format!("Invalid weight_decay value: {decay}")));
        }
        let clip = match (
            optional(intern!(py, "clipvalue"))?,
            optional(intern!(py, "clipnorm"))?,
            optional(intern!(py, "global_clipnorm"))?,
        ) {
            (None, None, None) => Clipping::Off,
            (Some(value), None, None) => Clipping::Value(value as f32),
            (None, Some(norm), None) => Clipping::Norm(norm as f32),
            (None, None, Some(norm)) => Clipping::Global(norm),
            _ => {
                return Err(PyValueError::new_err(
                    "at most one of clipvalue, clipnorm and global_clipnorm may be set",
                ));
            }
        };
        let in_f64 = match group.get_item(intern!(py, "one_minus_beta"))? {
            None => false,
            Some(form) => match form.extract::<&str>() {
                Ok("f32") => false,
                Ok("f64") => true,
                _ => {
                    let message = format!("Invalid one_minus_beta value: {form}; expected 'f32' or 'f64'");
                    return Err(PyValueError::new_err(message));
                }
            },
        };
        let scale = match group.get_item(intern!(py, "decay_scale"))? {
            None => None,
            Some(scale) => scale_of(scale.extract()?)?,
        };
        let step = || {
            let mut step = LionStep::new(lr as f32, beta_1 as f32, beta_2 as f32)?;
            // PyTorch's own decay of zero is none.
            if decay > 0.0 {
                step = step.weight_decay(decay as f32)?;
            }
            if let Some(scale) = scale {
                step = step.decay_rate(scale.at(lr as f32))?;
            }
            if in_f64 {
                step = step.gradient_factors((1.0 - beta_1) as f32, (1.0 - beta_2) as f32)?;
            }
            let mut transform = GradientTransform::new();
            if let Some(scale) = loss_scale {
                transform = transform.loss_scale(scale)?;
            }
            clip.check()?;
            Ok::<_, Error>(step.gradient(transform))
        };
        let step = step().map_err(|error| PyValueError::new_err(error.to_string()))?;
        let step =
            step.maximize(flag(intern!(py, "maximize"))?).masked_decay(flag(intern!(py, "cautious_decay"))?);
        let whole = |key: &Bound<'_, _>| match group.get_item(key)? {
            Some(value) if !value.is_none() => value.extract::<u64>().map(Some),
            _ => Ok(None),
        };
        let wrong = |name: &str, value: &dyn std::fmt::Display| {
            PyValueError::new_err(format!("Invalid {name} value: {value}"))
        };
        let accumulation = match whole(intern!(py, "gradient_accumulation_steps"))? {
            Some(steps @ 2..=16_777_216) => Some(steps as u32),
            Some(steps) => return Err(wrong("gradient_accumulation_steps", &steps)),
            None => None,
        };
        let frequency = match whole(intern!(py, "ema_overwrite_frequency"))? {
            Some(0) => return Err(wrong("ema_overwrite_frequency", &0)),
            frequency => frequency,
        };
        let ema = match optional(intern!(py, "ema_momentum"))? {
            Some(momentum) if !(0.0..=1.0).contains(&momentum) => {
                return Err(wrong("ema_momentum", &momentum));
            }
            momentum => momentum.map(|momentum| (momentum as f32, frequency)),
        };
        let formats = Formats {
            seed: whole(intern!(py, "stochastic_rounding"))?,
            split: flag(intern!(py, "split"))?,
            narrow: match group.get_item(intern!(py, "exp_avg_dtype"))? {
                Some(dtype) if !dtype.is_none() => {
                    Some(dtype.extract::<&str>().is_ok_and(|name| name == "q8"))
                }
                _ => None,
            },
        };
        if formats.split && formats.seed.is_some() {
            return Err(PyValueError::new_err(BOTH));
        }
        Ok(Group { step, clip, accumulation, ema, formats })
    }

    /// Returns whether steps are counted in each parameter's state.
    pub(super) fn is_counted(&self) -> bool {
        self.accumulation.is_some() || self.ema.is_some() || self.formats.seed.is_some()
    }

    /// Returns the clip that is the same for each gradient.
    pub(super) fn fixed_clip(&self) -> Option<Clip> {
        match self.clip {
            Clipping::Value(limit) => Some(Clip::Value(limit)),
            _ => None,
        }
    }

    /// Returns the position of a parameter in its accumulation and average cycles.
    pub(super) fn cycle(&self, state: &Bound<'_, PyDict>) -> PyResult<Cycle> {
        if !self.is_counted() {
            return Ok(PLAIN);
        }
        let step = match state.get_item(intern!(state.py(), "step"))? {
            Some(step) => number(&step)? as u64,
            None => 0,
        };
        let window = u64::from(self.accumulation.unwrap_or(1));
        let ema = self.ema.map(|(momentum, frequency)| {
            let index = step / window;
            // The average starts at zero: the first window replaces it.
            let momentum = if index == 0 { 0.0 } else { momentum };
            let overwrite = frequency.is_some_and(|every| index % every == every - 1);
            Ema::new(momentum).map(|ema| ema.overwrite(overwrite))
        });
        let ema = ema.transpose().map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Cycle {
            step: Some(step),
            accumulation: self.accumulation,
            updates: (step + 1) % window == 0,
            ema,
        })
    }

    /// Returns the settings of one parameter's step; `key` is its name in stochastic rounding.
    pub(super) fn step_of(&self, key: &str, cycle: &Cycle) -> LionStep {
        match self.formats.seed {
            None => self.step,
            Some(seed) => {
                let rounding = StochasticRounding::new(seed, key, cycle.step.unwrap_or(0));
                self.step.stochastic_rounding(rounding)
            }
        }
    }

    /// The transform of a gradient before it is clipped.
    pub(super) fn transform(loss_scale: Option<f32>) -> Result<GradientTransform, Error> {
        match loss_scale {
            Some(scale) => GradientTransform::new().loss_scale(scale),
            None => Ok(GradientTransform::new()),
        }
    }
}

/// The cycle of a group without one.
pub(super) const PLAIN: Cycle = Cycle { step: None, accumulation: None, updates: true, ema: None };

const BOTH: &str = "stochastic_rounding and split cannot be set together: a split parameter is not rounded";

/// Parses a decay scale; `None` is the learning rate.
pub(super) fn scale_of(text: &str) -> PyResult<Option<DecayScale>> {
    match text.parse().map_err(PyValueError::new_err)? {
        DecayScale::LearningRate => Ok(None),
        scale => Ok(Some(scale)),
    }
}

/// Counts a step in the parameter's state.
pub(super) fn count(cycle: &Cycle, state: &Bound<'_, PyDict>) -> PyResult<()> {
    match cycle.step {
        Some(step) => state.set_item(intern!(state.py(), "step"), step.saturating_add(1)),
        None => Ok(()),
    }
}

fn item<'py>(group: &Bound<'py, PyDict>, key: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    group.get_item(key)?.ok_or_else(|| PyKeyError::new_err(key.to_string()))
}

/// A number, which may be a tensor of one element.
fn number(object: &Bound<'_, PyAny>) -> PyResult<f64> {
    match object.cast_exact::<PyFloat>() {
        Ok(float) => Ok(float.value()),
        Err(_) => match object.extract::<f64>() {
            Ok(number) => Ok(number),
            Err(_) => object.call_method0(intern!(object.py(), "item"))?.extract(),
        },
    }
}
