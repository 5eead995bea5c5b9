//! Learning rates that follow the calls of the optimizer.
//!
//! Keras's six and more. Each is built by a constructor that checks its arguments, and becomes a [`Schedule`]:
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
//! Steps are calls of the optimizer, from 0, whether they update or accumulate. Keras computes in f32. Here the step,
//! the hyperparameters and the quotient of step and length are f32 as there, so that a staircase has its steps where
//! Keras's are; the rest is f64, by functions that give the same bits on every machine, and is rounded once to f32.
//! That is within 8 units in the last place of Keras or 1e-6, but where [`CosineDecayRestarts`] in f32 picks the wrong
//! cycle. No value is negative or NaN, but a closure's; one that grows without bound ends as infinity. The optimizer
//! refuses such values when their step comes.

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

/// What the file of a schedule gives; the table does the rest.
trait ScheduleImpl: Sized {
    /// The value in call number `step`.
    fn at(&self, step: u64) -> f64;

    /// The entries of Keras's `get_config()`, but for the name.
    fn write(&self, config: &mut Map<String, Value>) -> Result<(), Error>;

    /// The reverse.
    fn read(config: &mut ObjectReader) -> Result<Self, Error>;
}

const KERAS: &str = "keras.optimizers.schedules";

/// What can stand in a file in place of a custom schedule, and what in a program.
const IN_ITS_PLACE: &str = "a schedule of keras.optimizers.schedules or of lion: write it as one of these, or set it in \
                            the program with Schedule::from_fn";

/// Rows: class, the module that files give it, the name that Keras gives an instance.
macro_rules! schedules {
    ($($class:ident, $module:ident, $name:literal;)+) => {
        #[derive(Clone, Debug, PartialEq)]
        enum Kind {
            $($class($class),)+
        }

        impl Schedule {
            /// The names of all schedules. No file can hold a [`ScheduleFn`].
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

/// A learning rate for each call of the optimizer: one of those in [`schedule`](self), or a closure.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    kind: Kind,
    /// Keras's name of the instance, where a file gave one.
    name: Option<String>,
}

impl Schedule {
    /// The caller's own schedule, from the number of the call to the value.
    ///
    /// ```
    /// let halving = lion::Schedule::from_fn(|step| 1e-3 / 2_f32.powi((step / 1000) as i32));
    /// assert_eq!(halving.at(1000), 5e-4);
    /// ```
    pub fn from_fn(function: impl Fn(u64) -> f32 + Send + Sync + 'static) -> Self {
        ScheduleFn::new(function).into()
    }

    /// The value in call number `step`, from 0.
    pub fn at(&self, step: u64) -> f32 {
        with_ieee_state(|| self.value(step) as f32)
    }

    /// The name of the class, as files have it.
    pub fn class_name(&self) -> &'static str {
        self.labels().1
    }

    /// Whether Keras has this schedule.
    pub(crate) fn is_of_keras(&self) -> bool {
        self.labels().0 == KERAS
    }

    /// How many schedules are within one another.
    fn depth(&self) -> u32 {
        match &self.kind {
            Kind::LinearWarmup(warmup) => warmup.depth(),
            _ => 1,
        }
    }

    /// As `keras.optimizers.schedules.serialize` gives it; those that Keras lacks have the module `lion`.
    pub(crate) fn write(&self) -> Result<Value, Error> {
        let (module, class, name) = self.labels();
        let mut config = Map::new();
        self.write_config(&mut config)?;
        config.insert("name".into(), self.name.as_deref().unwrap_or(name).into());
        Ok(KerasObject::write(module, class, config))
    }

    /// The reverse.
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

/// An f64 of Python as Keras computes with it.
fn single(value: f64) -> f64 {
    f64::from(value as f32)
}

/// The step as Keras computes with it.
fn count(step: u64) -> f64 {
    f64::from(step as f32)
}

/// The quotient in f32, as Keras takes it: where it rounds to a whole number, so does Keras's, and `floor` and `ceil`
/// of it agree.
fn quotient(step: f64, steps: f64) -> f64 {
    f64::from((step as f32 / steps as f32).min(f32::MAX))
}

/// From `start` at the fraction 0 to `end` at 1.
fn line(start: f64, end: f64, fraction: f64) -> f64 {
    start + (end - start) * fraction
}

/// Half a period of the cosine, from 1 at the fraction 0 to 0 at 1.
fn half_cosine(fraction: f64) -> f64 {
    (1.0 + libm::cos(std::f64::consts::PI * fraction)) / 2.0
}
