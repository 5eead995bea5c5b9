use lion_kernels::with_ieee_state;

use crate::{Error, Schedule};

/// A constant, or a schedule that follows the steps.
///
/// ```
/// use lion::{Hyperparameter, Schedule, schedule::CosineDecay};
///
/// let constant = Hyperparameter::from(1e-3);
/// let decaying = Hyperparameter::from(CosineDecay::new(1e-3, 10_000.0)?);
/// let own = Hyperparameter::from(Schedule::from_fn(|step| if step < 100 { 1e-4 } else { 1e-3 }));
/// assert_eq!([constant.at(0), decaying.at(0), own.at(0)], [1e-3, 1e-3, 1e-4]);
/// # Ok::<(), lion::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Hyperparameter {
    /// A constant: f64, as in Keras's files, and rounded to f32 when it is used.
    Constant(f64),
    /// A value for each step.
    Scheduled(Schedule),
}

impl Hyperparameter {
    /// Returns the value in a step, counted from 0.
    pub fn at(&self, step: u64) -> f32 {
        with_ieee_state(|| self.evaluate(step))
    }

    /// [`at`](Self::at) for callers that are in the IEEE default floating-point state.
    pub(crate) fn evaluate(&self, step: u64) -> f32 {
        match self {
            Hyperparameter::Constant(value) => *value as f32,
            Hyperparameter::Scheduled(schedule) => schedule.at(step),
        }
    }

    /// Checks a constant. A schedule's values are checked in each step.
    pub(crate) fn check(
        &self,
        name: &str,
        check: impl Fn(&str, f64) -> Result<f64, Error>,
    ) -> Result<(), Error> {
        match self {
            Hyperparameter::Constant(value) => check(name, *value).map(drop),
            Hyperparameter::Scheduled(_) => Ok(()),
        }
    }
}

impl From<f64> for Hyperparameter {
    fn from(value: f64) -> Self {
        Hyperparameter::Constant(value)
    }
}

impl From<f32> for Hyperparameter {
    fn from(value: f32) -> Self {
        Hyperparameter::Constant(value.into())
    }
}

impl From<Schedule> for Hyperparameter {
    fn from(schedule: Schedule) -> Self {
        Hyperparameter::Scheduled(schedule)
    }
}
