//! The table of all options of a [`Lion`], and access to them by name.
//!
//! A row of the table has a name, a type, a default, a range, Keras's form of the option, and whether it can change after
//! the optimizer is built. Each row makes a field of [`Config`] with its default and check, a setter of [`Builder`], a key
//! of the JSON, and an option for [`Config::set`], [`Config::get`] and [`Lion::set`]. `tests/tests/options.rs` has sample
//! values for each row, and fails if they are missing.
//!
//! The table holds the options that affect results. Backend and profile affect speed only, and belong to the builder.
//!
//! # Options that Keras does not have
//! [`Config::to_json`] and [`Config::to_bare_json`] refuse such an option with [`Error::NotOfKeras`], as Keras would
//! compute something else. [`Config::to_lion_json`] writes it to an object `lion` beside Keras's keys, and
//! [`Config::from_json`] reads it from there. An option at its default is not written. `exclude_from_weight_decay` is a
//! method in Keras, so `to_json` leaves it out instead of refusing it.

mod nearest;
mod setting;
mod value;

use std::borrow::Cow;

use crate::check::Range;
use crate::config::one_clip;
use crate::json::{self, excerpt};
use crate::{Builder, DecayScale, Dtype, DynamicLossScale, EmaCadence, Error, Hyperparameter, Lion};

pub(crate) use setting::Setting;
pub use value::Value;

/// An option: a row of the [`TABLE`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Row {
    /// Its name: Keras's, if Keras has the option.
    pub name: &'static str,
    /// Whether [`Lion::set`] can change it after the optimizer is built.
    pub changes: bool,
    pub(crate) keras: Keras,
    range: Range,
    what: fn() -> Cow<'static, str>,
    get: fn(&Config) -> Value,
    assign: fn(&mut Config, &Value) -> Option<()>,
}

/// Keras's form of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keras {
    /// A key of the config of Keras's Lion.
    Key,
    /// A key for which Keras reads 0 and false as off.
    KeyZeroIsOff,
    /// A key for which Keras reads false as off.
    KeyFalseIsOff,
    /// A key for which Keras reads null as the default.
    KeyNullIsDefault,
    /// A key of the `LossScaleOptimizer` around a Lion, or its presence.
    LossScaleOptimizer,
    /// A method of the optimizer, which no config holds.
    Method,
    /// An option that Keras does not have.
    Lacks,
}

impl Keras {
    /// Returns whether this is a key of the config of Keras's Lion.
    pub(crate) fn is_key(self) -> bool {
        use Keras::{Key, KeyFalseIsOff, KeyNullIsDefault, KeyZeroIsOff};
        matches!(self, Key | KeyZeroIsOff | KeyFalseIsOff | KeyNullIsDefault)
    }

    /// Returns whether this is a key of the object `lion` in a config.
    pub(crate) fn is_key_of_lion(self) -> bool {
        matches!(self, Keras::Method | Keras::Lacks)
    }
}

/// Whether an option can change after the optimizer is built.
const CHANGES: bool = true;
const FIXED: bool = false;

/// Rows: documentation, name, the argument type of the builder's setter (none if the setter is written by hand), type,
/// default; range, Keras's form, whether it can change. Then the numbers of the dynamic loss scale, each with its field.
macro_rules! options {
    (
        $($(#[$doc:meta])+ $name:ident $(($given:ty))?: $type:ty = $default:expr,
            $range:expr, $keras:ident, $changes:ident;)+
        dynamic_loss_scale { $($part:ident: $field:ident, $part_type:ty, $part_range:expr;)+ }
    ) => {
        /// The options that affect an optimizer's results: the arguments of `keras.optimizers.Lion`, with its names and
        /// defaults, and options that Keras does not have. Numbers are f64, as in Keras's files, and are rounded to f32
        /// when they are used.
        ///
        /// ```
        /// use lion::{Config, schedule::CosineDecay};
        ///
        /// let mut config = Config::default();
        /// config.learning_rate = CosineDecay::new(1e-3, 10_000.0)?.into();
        /// config.weight_decay = Some(0.1.into());
        /// config.set("global_clipnorm", 1)?;
        /// config.check()?;
        /// assert_eq!(Config::from_json(&config.to_json()?)?, config);
        ///
        /// config.clipvalue = Some(1.0);
        /// assert_eq!(
        ///     config.check().unwrap_err().to_string(),
        ///     "global_clipnorm is 1 and clipvalue is 1, and at most one of clipnorm, global_clipnorm and clipvalue may be set",
        /// );
        /// # Ok::<(), lion::Error>(())
        /// ```
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct Config {
            $($(#[$doc])+ pub $name: $type,)+
        }

        impl Default for Config {
            fn default() -> Self {
                Config { $($name: $default,)+ }
            }
        }

        /// The table of all options, in the order in which they are checked.
        pub const TABLE: &[Row] = &[
            $(Row {
                name: stringify!($name),
                changes: $changes,
                keras: Keras::$keras,
                range: $range,
                what: <$type as Setting>::what,
                get: |config| config.$name.to_value(),
                assign: |config, value| config.$name.assign(value),
            },)+
            $(Row {
                name: stringify!($part),
                changes: FIXED,
                keras: Keras::LossScaleOptimizer,
                range: $part_range,
                what: <$part_type as Setting>::what,
                get: |config| config.dynamic_loss_scale.as_ref().map(|scale| scale.$field.clone()).into(),
                assign: |config, value| {
                    setting::assign_part(&mut config.dynamic_loss_scale, value, |scale| &mut scale.$field)
                },
            },)+
        ];

        impl Builder {
            $(setter! { $(#[$doc])+ $name $(($given))?: $type })+
        }
    };
}

/// A setter of the builder, if the row gives its argument type.
macro_rules! setter {
    ($(#[$doc:meta])+ $name:ident: $type:ty) => {};
    ($(#[$doc:meta])+ $name:ident($given:ty): $type:ty) => {
        $(#[$doc])+
        pub fn $name(mut self, $name: $given) -> Self {
            let given: <$type as Setting>::Given = $name.into();
            self.config.$name = given.into();
            self
        }
    };
}

options! {
    /// Clips each gradient to this L2 norm, in (0, inf). At most one of the clips may be set.
    clipnorm(f64): Option<f64> = None, Range::POSITIVE, KeyZeroIsOff, FIXED;
    /// Clips all gradients of a step to this joint L2 norm, in (0, inf). At most one of the clips may be set.
    global_clipnorm(f64): Option<f64> = None, Range::POSITIVE, KeyZeroIsOff, FIXED;
    /// Clips each element of each gradient to this magnitude, in (0, inf). At most one of the clips may be set.
    clipvalue(f64): Option<f64> = None, Range::POSITIVE, KeyZeroIsOff, FIXED;
    /// The learning rate: the distance that a step moves each element, in [0, inf). Default: 0.001.
    learning_rate(impl Into<Hyperparameter>): Hyperparameter = 1e-3.into(), Range::NOT_NEGATIVE, Key, CHANGES;
    /// The weight of the old momentum in the direction of a step, in (0, 1]. Default: 0.9.
    beta_1(impl Into<Hyperparameter>): Hyperparameter = 0.9.into(), Range::POSITIVE_FRACTION, Key, CHANGES;
    /// The weight of the old momentum in the new momentum, in [0, 1]. Default: 0.99.
    beta_2(impl Into<Hyperparameter>): Hyperparameter = 0.99.into(), Range::FRACTION, Key, CHANGES;
    /// Decoupled weight decay, in [0, inf): an update subtracts `learning_rate * weight_decay` times each element.
    /// Default: none. 0 differs from none: it turns a parameter of -0 into +0.
    weight_decay(impl Into<Hyperparameter>): Option<Hyperparameter> = None,
        Range::NOT_NEGATIVE, KeyFalseIsOff, CHANGES;
    /// Keeps a moving average (EMA) of each parameter. Default: false.
    use_ema(bool): bool = false, Range::Any, Key, FIXED;
    /// The momentum of the moving average, in [0, 1]. Default: 0.99.
    ema_momentum(f64): f64 = 0.99, Range::FRACTION, Key, FIXED;
    /// Overwrites the parameter with its average after this many updates, at least 1. Default: never.
    ema_overwrite_frequency(u64): Option<u64> = None, Range::Whole(1, u64::MAX), KeyZeroIsOff, FIXED;
    /// Divides gradients by this factor, in (0, inf); [`Lion::scale_loss`] multiplies the loss by it. Ignored with a
    /// dynamic loss scale.
    loss_scale_factor(f64): Option<f64> = None, Range::POSITIVE, Key, FIXED;
    /// Averages the gradients of this many steps for one update, in [2, 2^24]. The mean is computed in f32, which holds
    /// every integer up to 2^24.
    gradient_accumulation_steps(u32): Option<u32> = None, Range::Whole(2, 1 << 24), KeyZeroIsOff, FIXED;
    /// Keras's name of the optimizer, used in files only. Default: `lion`.
    name(impl Into<String>): String = "lion".into(), Range::Any, KeyNullIsDefault, FIXED;
    /// Adapts the loss scale during training, as Keras's `LossScaleOptimizer` does: a step with a non-finite gradient is
    /// skipped and halves the scale. `loss_scale_factor` then has no effect.
    dynamic_loss_scale(DynamicLossScale): Option<DynamicLossScale> = None, Range::Any, LossScaleOptimizer, FIXED;
    /// Excludes variables from weight decay if one of these regular expressions matches anywhere in their name: `bias$`,
    /// not `.*bias$`. The syntax is that of the crate `regex`. At most 256 expressions.
    exclude_from_weight_decay: Vec<String> = Vec::new(), Range::Patterns, Method, FIXED;
    /// The steps that update the moving average if gradients are accumulated. Default: every step, as in Keras.
    ema_cadence(EmaCadence): EmaCadence = EmaCadence::EveryCall, Range::Any, Lacks, FIXED;
    /// The dtype of momentum, for variables that do not set one. Default: the parameter's dtype.
    momentum_dtype(Dtype): Option<Dtype> = None, Range::Any, Lacks, FIXED;
    /// Stores bf16 parameters with stochastic rounding from this seed, so that steps below half a unit in the last place
    /// still move them on average. The random numbers depend only on seed, name, step and element. Excludes
    /// `split_master`. Default: rounding to nearest.
    stochastic_rounding(u64): Option<u64> = None, Range::Any, Lacks, FIXED;
    /// Keeps the low halves of bf16 parameters in the state. Both halves together are an f32 parameter, bit for bit.
    /// Excludes `stochastic_rounding`. Default: false.
    split_master(bool): bool = false, Range::Any, Lacks, FIXED;
    /// Skips the decay of elements that the step moves away from zero ("cautious" weight decay, Chen et al., 2025).
    /// Default: false.
    cautious_decay(bool): bool = false, Range::Any, Lacks, CHANGES;
    /// The factor of weight decay. Default: the learning rate.
    decay_scale(DecayScale): DecayScale = DecayScale::LearningRate, Range::Any, Lacks, CHANGES;

    dynamic_loss_scale {
        initial_scale: initial_scale, f64, Range::POSITIVE;
        dynamic_growth_steps: dynamic_growth_steps, u64, Range::Any;
        loss_scale_name: name, String, Range::Any;
    }
}

impl Row {
    /// Returns the option of that name.
    ///
    /// # Errors
    /// [`Error::UnknownOption`], with the nearest names.
    pub fn find(name: &str) -> Result<&'static Self, Error> {
        TABLE.iter().find(|row| row.name == name).ok_or_else(|| Error::UnknownOption {
            name: excerpt(&name.into()),
            nearest: nearest::nearest(name, TABLE.iter().map(|row| row.name)).join(", "),
        })
    }

    /// Returns the type of its values in words, such as "a number".
    pub fn what(&self) -> Cow<'static, str> {
        (self.what)()
    }

    /// Returns the range of its values in words, or `None` if every value of the type is allowed.
    pub fn range(&self) -> Option<Cow<'static, str>> {
        self.range.text()
    }

    /// Returns its default.
    pub fn default(&self) -> Value {
        self.get(&Config::default())
    }

    /// Returns whether Keras has it.
    pub fn is_known_to_keras(&self) -> bool {
        self.keras != Keras::Lacks
    }

    /// Returns whether it takes a schedule as well as a number.
    pub(crate) fn takes_schedule(&self) -> bool {
        self.what() == Hyperparameter::what()
    }

    pub(crate) fn get(&self, config: &Config) -> Value {
        (self.get)(config)
    }

    /// Sets it, or returns `None` if the value has another type.
    pub(crate) fn assign(&self, config: &mut Config, value: &Value) -> Option<()> {
        (self.assign)(config, value)
    }

    /// Checks its value. A field that was set directly can hold values of its type that the option does not allow.
    fn check(&self, config: &Config) -> Result<(), Error> {
        let value = self.get(config);
        match self.assign(&mut Config::default(), &value) {
            Some(()) => self.range.check(self.name, &value),
            None => Err(Error::argument(self.name, &value, self.expected())),
        }
    }

    /// Returns an error if its value changes and the option is fixed.
    fn check_change(&self, from: &Config, to: &Config) -> Result<(), Error> {
        let value = self.get(from);
        if self.changes || self.get(to) == value {
            return Ok(());
        }
        let changing: Vec<_> = TABLE.iter().filter(|row| row.changes).map(|row| row.name).collect();
        Err(Error::FixedOption { name: self.name, value: value.to_string(), changing: changing.join(", ") })
    }

    /// Describes the values allowed, for the error of a value of another type.
    pub(crate) fn expected(&self) -> Cow<'static, str> {
        match self.range {
            Range::Whole(..) => self.range.text().unwrap_or_default(),
            _ => self.what(),
        }
    }
}

impl Config {
    /// Sets an option by name.
    ///
    /// ```
    /// let mut config = lion::Config::default();
    /// config.set("weight_decay", 0.1)?;
    /// let error = config.set("weight_decay", "much").unwrap_err();
    /// assert_eq!(error.to_string(), r#"weight_decay is "much", and must be a number or a serialized schedule"#);
    /// let error = config.set("wieght_decay", 0.1).unwrap_err();
    /// assert_eq!(error.to_string(), r#"option "wieght_decay" does not exist; nearest: weight_decay"#);
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownOption`]; [`Error::Argument`] for a value of another type or outside its range;
    /// [`Error::Pattern`]. On an error the config is unchanged. [`check`](Self::check) finds options that exclude each
    /// other.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) -> Result<(), Error> {
        let (row, value) = (Row::find(name)?, value.into());
        let mut changed = self.clone();
        row.assign(&mut changed, &value).ok_or_else(|| Error::argument(row.name, &value, row.expected()))?;
        row.range.check(row.name, &row.get(&changed))?;
        *self = changed;
        Ok(())
    }

    /// Sets options from a JSON object of names and values, each read as by [`Value::from_json`].
    ///
    /// ```
    /// let mut config = lion::Config::default();
    /// config.set_json(r#"{"weight_decay": 0.1, "momentum_dtype": "bf16", "exclude_from_weight_decay": ["bias$"]}"#)?;
    /// assert_eq!(config.momentum_dtype, Some(lion::Dtype::BF16));
    /// let error = config.set_json(r#"{"weight_decay": null, "beta_1": 2}"#).unwrap_err();
    /// assert_eq!(error.to_string(), "beta_1 is 2, and must be in (0, 1]");
    /// assert!(config.weight_decay.is_some());
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`set`](Self::set), and text that is not such an object. On an error the config is unchanged.
    pub fn set_json(&mut self, text: &str) -> Result<(), Error> {
        let mut changed = self.clone();
        for (name, value) in json::object(text)? {
            let row = Row::find(&name)?;
            let value = Value::read(value).map_err(|error| error.under(row.name))?;
            changed.set(row.name, value)?;
        }
        *self = changed;
        Ok(())
    }

    /// Returns the value of an option by name.
    ///
    /// # Errors
    /// [`Error::UnknownOption`].
    pub fn get(&self, name: &str) -> Result<Value, Error> {
        Ok(Row::find(name)?.get(self))
    }

    /// Checks that every option is in its range, and that options do not exclude each other.
    ///
    /// # Errors
    /// [`Error::Argument`] with the name, the value and the range of the first option that is outside its range,
    /// [`Error::Pattern`], [`Error::SeveralClips`]. A schedule's values are checked in each step.
    pub fn check(&self) -> Result<(), Error> {
        one_clip(&[
            ("clipnorm", self.clipnorm),
            ("global_clipnorm", self.global_clipnorm),
            ("clipvalue", self.clipvalue),
        ])?;
        if self.split_master && self.stochastic_rounding.is_some() {
            return Err(Error::argument("split_master", true, "false beside stochastic_rounding"));
        }
        TABLE.iter().try_for_each(|row| row.check(self))
    }
}

impl Lion {
    /// Sets an option by name, from the next step on, if its [`Row`] says that it can change.
    ///
    /// ```
    /// let mut optimizer = lion::Lion::builder().build()?;
    /// optimizer.set("learning_rate", 1e-4)?;
    /// let error = optimizer.set("use_ema", true).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "use_ema is false and cannot change after build; learning_rate, beta_1, beta_2, weight_decay, cautious_decay, decay_scale can change",
    /// );
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`set_config`](Self::set_config) and of [`Config::set`]. On an error the option is unchanged.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) -> Result<(), Error> {
        let mut config = self.config().clone();
        config.set(name, value)?;
        // This option is checked first, as a number of the loss scale changes the option `dynamic_loss_scale` too.
        Row::find(name)?.check_change(self.config(), &config)?;
        self.set_config(config)
    }

    /// Sets all options that can change, from the next step on. The other options must have their old values.
    ///
    /// # Errors
    /// [`Error::FixedOption`] for a changed option that is fixed, and those of [`Config::check`]. On an error every option
    /// is unchanged.
    pub fn set_config(&mut self, config: Config) -> Result<(), Error> {
        config.check()?;
        TABLE.iter().try_for_each(|row| row.check_change(&self.config, &config))?;
        self.config = config;
        Ok(())
    }
}
