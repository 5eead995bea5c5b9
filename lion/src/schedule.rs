//! Learning rate schedules: Keras's six, and more.
//!
//! Each has a constructor that checks its arguments, and converts to a [`Schedule`]:
//!
//! ```
//! use lion::Schedule;
//! use lion::schedule::{CosineDecay, LinearWarmup};
//!
//! let cosine = CosineDecay::new(1e-3, 10_000.0)?;
//! let schedule = Schedule::from(LinearWarmup::new(500, cosine)?);
//! assert_eq!((schedule.at(0), schedule.at(500), schedule.at(20_000)), (0.0, 1e-3, 0.0));
//!
//! let error = CosineDecay::new(1e-3, 0.0).unwrap_err();
//! assert_eq!(error.to_string(), "decay_steps is 0, and must be in (0, inf)");
//! # Ok::<(), lion::Error>(())
//! ```
//!
//! # Numbers
//! Steps count from 0, whether they update or accumulate. Keras computes schedules in f32. Here the step, the
//! hyperparameters and the quotient of step and length are f32 too, so that the levels of a staircase change at Keras's
//! steps. The rest is computed in f64, by functions that give the same bits on every machine, and rounded once to f32. The
//! result is within 8 units in the last place or 1e-6 of Keras's, except for steps at which Keras's
//! [`CosineDecayRestarts`] picks the wrong cycle. Only a closure can give a negative value or NaN. A value that grows
//! without bound becomes infinite. The optimizer refuses such values in their step.

mod constant;
mod cosine_decay;
mod cosine_decay_restarts;
mod exponential_decay;
mod inverse_square_root;
mod inverse_time_decay;
mod linear_warmup;
mod one_cycle;
mod periodic_decay;
mod piecewise_constant_decay;
mod polynomial_decay;
mod schedule_fn;
mod warmup_stable_decay;

use lion_kernels::with_ieee_state;
use serde_json::{Map, Value};

use crate::json::{KerasObject, LION_MODULE, ObjectReader};
use crate::{Error, Hyperparameter};

pub use constant::Constant;
pub use cosine_decay::CosineDecay;
pub use cosine_decay_restarts::CosineDecayRestarts;
pub use exponential_decay::ExponentialDecay;
pub use inverse_square_root::InverseSquareRoot;
pub use inverse_time_decay::InverseTimeDecay;
pub use linear_warmup::LinearWarmup;
pub use one_cycle::OneCycle;
pub use piecewise_constant_decay::PiecewiseConstantDecay;
pub use polynomial_decay::PolynomialDecay;
pub use schedule_fn::ScheduleFn;
pub use warmup_stable_decay::{DecayShape, WarmupStableDecay};

/// The functions that each schedule implements. The table below adds the rest.
trait ScheduleImpl: Sized {
    /// Returns the value in a step.
    fn at(&self, step: u64) -> f64;

    /// Writes the entries of Keras's `get_config()`, except the name.
    fn write(&self, config: &mut Map<String, Value>) -> Result<(), Error>;

    /// Reads the entries that [`write`](Self::write) writes.
    fn read(config: &mut ObjectReader) -> Result<Self, Error>;
}

const KERAS: &str = "keras.optimizers.schedules";

/// The remedy for a file with a custom schedule.
const IN_ITS_PLACE: &str = "a schedule of keras.optimizers.schedules or of lion: write it as one of these, or set it in \
                            the program with Schedule::from_fn";

/// Rows: the class, its module in files, Keras's default name of an instance.
macro_rules! schedules {
    ($($class:ident, $module:ident, $name:literal;)+) => {
        #[derive(Clone, Debug, PartialEq)]
        enum Kind {
            $($class($class),)+
        }

        impl Schedule {
            /// The names of all schedules. Files cannot hold a [`ScheduleFn`].
            pub const CLASSES: &'static [&'static str] = &[$(stringify!($class)),+];

            fn value(&self, step: u64) -> f64 {
                match &self.kind { $(Kind::$class(curve) => curve.at(step),)+ }
            }

            fn labels(&self) -> (&'static str, &'static str, &'static str) {
                match &self.kind { $(Kind::$class(_) => ($module, stringify!($class), $name),)+ }
            }

            fn write_config(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
                match &self.kind { $(Kind::$class(curve) => curve.write(config),)+ }
            }

            fn read_config(class: &str, config: &mut ObjectReader) -> Result<Option<Self>, Error> {
                match class {
                    $(stringify!($class) => $class::read(config).map(|curve| Some(curve.into())),)+
                    _ => Ok(None),
                }
            }
        }

        $(
            impl From<$class> for Schedule {
                fn from(curve: $class) -> Self {
                    Schedule { kind: Kind::$class(curve), name: None }
                }
            }

            impl From<$class> for Hyperparameter {
                fn from(curve: $class) -> Self {
                    Hyperparameter::Scheduled(curve.into())
                }
            }
        )+
    };
}

schedules! {
    ExponentialDecay, KERAS, "ExponentialDecay";
    InverseTimeDecay, KERAS, "InverseTimeDecay";
    PiecewiseConstantDecay, KERAS, "PiecewiseConstant";
    PolynomialDecay, KERAS, "PolynomialDecay";
    CosineDecay, KERAS, "CosineDecay";
    CosineDecayRestarts, KERAS, "SGDRDecay";
    Constant, LION_MODULE, "Constant";
    LinearWarmup, LION_MODULE, "LinearWarmup";
    WarmupStableDecay, LION_MODULE, "WarmupStableDecay";
    InverseSquareRoot, LION_MODULE, "InverseSquareRoot";
    OneCycle, LION_MODULE, "OneCycle";
    ScheduleFn, LION_MODULE, "ScheduleFn";
}

/// A learning rate for each step: one of the schedules in [`schedule`](self), or a closure.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    kind: Kind,
    /// Keras's name of the instance, if a file had one.
    name: Option<String>,
}

impl Schedule {
    /// Creates a schedule from a function of the step.
    ///
    /// ```
    /// let halving = lion::Schedule::from_fn(|step| 1e-3 / 2_f32.powi((step / 1000) as i32));
    /// assert_eq!(halving.at(1000), 5e-4);
    /// ```
    pub fn from_fn(function: impl Fn(u64) -> f32 + Send + Sync + 'static) -> Self {
        ScheduleFn::new(function).into()
    }

    /// Returns the value in a step, counted from 0.
    pub fn at(&self, step: u64) -> f32 {
        with_ieee_state(|| self.value(step) as f32)
    }

    /// Returns the name of the class in files.
    pub fn class_name(&self) -> &'static str {
        self.labels().1
    }

    /// Returns whether Keras has this schedule.
    pub(crate) fn is_of_keras(&self) -> bool {
        self.labels().0 == KERAS
    }

    /// Returns the depth of nested schedules.
    fn depth(&self) -> u32 {
        match &self.kind {
            Kind::LinearWarmup(warmup) => warmup.depth(),
            _ => 1,
        }
    }

    /// Writes the form of `keras.optimizers.schedules.serialize`. Schedules that Keras does not have get the module `lion`.
    pub(crate) fn write(&self) -> Result<Value, Error> {
        let (module, class, name) = self.labels();
        let mut config = Map::new();
        self.write_config(&mut config)?;
        config.insert("name".into(), self.name.as_deref().unwrap_or(name).into());
        Ok(KerasObject::write(module, class, config))
    }

    /// Reads the form that [`write`](Self::write) writes.
    pub(crate) fn read(value: Value) -> Result<Self, Error> {
        let mut wrapped = KerasObject::read(value)?;
        wrapped.check_origin(IN_ITS_PLACE)?;
        let (config, within) = (wrapped.config.take(), |error: Error| error.under("config"));
        let mut config = ObjectReader::new(config).map_err(within)?;
        let Some(mut schedule) = Self::read_config(&wrapped.class, &mut config).map_err(within)? else {
            let of_files: Vec<_> =
                Self::CLASSES.iter().copied().filter(|class| *class != "ScheduleFn").collect();
            return Err(wrapped.unknown_class(format!("one of {}", of_files.join(", "))));
        };
        let (module, _, default) = schedule.labels();
        wrapped.check_module(module)?;
        schedule.name = config.option("name").map_err(within)?.filter(|name| name != default);
        config.finish().map_err(within)?;
        Ok(schedule)
    }
}

/// Rounds a number of Python to f32, in which Keras computes.
fn single(value: f64) -> f64 {
    f64::from(value as f32)
}

/// Rounds a step to f32, in which Keras computes.
fn count(step: u64) -> f64 {
    f64::from(step as f32)
}

/// Divides in f32 as Keras does, so that `floor` and `ceil` of the quotient agree with Keras's.
fn quotient(step: f64, steps: f64) -> f64 {
    f64::from((step as f32 / steps as f32).min(f32::MAX))
}

/// Interpolates from `start` at the fraction 0 to `end` at 1.
fn line(start: f64, end: f64, fraction: f64) -> f64 {
    start + (end - start) * fraction
}

/// Returns half a period of a cosine: 1 at the fraction 0, and 0 at 1.
fn half_cosine(fraction: f64) -> f64 {
    (1.0 + libm::cos(std::f64::consts::PI * fraction)) / 2.0
}
