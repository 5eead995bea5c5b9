//! The options of a [`Lion`], by name: THE table of them, and what follows from it.
//!
//! A row of the table is a name, a type, a default, a range, what Keras knows of it, and whether it may change after the
//! optimizer is built. From a row follow a field of [`Config`] with its default and check, a setter of
//! [`Builder`], a key of the JSON, and the option by name: [`Config::set`], [`Config::get`],
//! [`Lion::set`]. A row has its sample values in `tests/tests/options.rs`, which fails without them.
//!
//! The table holds what is computed. Backend and profile change the speed alone, and belong to the builder.
//!
//! # An option that Keras lacks
//! [`Config::to_json`] and [`Config::to_bare_json`] refuse such an option, as Keras would compute something else:
//! [`Error::NotOfKeras`]. [`Config::to_lion_json`] writes it in an object `lion` beside Keras's keys, from which
//! [`Config::from_json`] reads it. At its default an option is in neither. `exclude_from_weight_decay` is a method in
//! Keras, and so left out where the others are refused.

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
    /// Keras's name of it, or ours.
    pub name: &'static str,
    /// Whether it may change after the optimizer is built, by [`Lion::set`].
    pub changes: bool,
    pub(crate) keras: Keras,
    range: Range,
    what: fn() -> Cow<'static, str>,
    get: fn(&Config) -> Value,
    assign: fn(&mut Config, &Value) -> Option<()>,
}

/// What Keras knows of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keras {
    /// A key of its config.
    Key,
    /// A key, at which Keras takes a 0 as off, and so a false.
    KeyZeroIsOff,
    /// A key, at which Keras takes a false as off.
    KeyFalseIsOff,
    /// A key, at which Keras takes a null as the default.
    KeyNullIsDefault,
    /// A key of the `LossScaleOptimizer` around a Lion, or that there is one.
    LossScaleOptimizer,
    /// A method of the optimizer. No config of Keras has it.
    Method,
    /// Nothing.
    Lacks,
}

impl Keras {
    /// Whether this is a key of the config of Keras's Lion.
    pub(crate) fn is_key(self) -> bool {
        use Keras::{Key, KeyFalseIsOff, KeyNullIsDefault, KeyZeroIsOff};
        matches!(self, Key | KeyZeroIsOff | KeyFalseIsOff | KeyNullIsDefault)
    }

    /// Whether this is a key of the object `lion` in a config.
    pub(crate) fn is_key_of_lion(self) -> bool {
        matches!(self, Keras::Method | Keras::Lacks)
    }
}

/// Whether an option may change after the optimizer is built.
const CHANGES: bool = true;
const FIXED: bool = false;

/// Rows: documentation, name, what the builder's setter takes (none if the builder writes the setter itself), type,
/// default; range, what Keras knows of it, whether it changes. After them the numbers of the loss scale, each with the
/// field that holds it.
macro_rules! options {
    (
        $($(#[$doc:meta])+ $name:ident $(($given:ty))?: $type:ty = $default:expr,
            $range:expr, $keras:ident, $changes:ident;)+
        dynamic_loss_scale { $($part:ident: $field:ident, $part_type:ty, $part_range:expr;)+ }
    ) => {
        /// What an optimizer computes: the arguments of `keras.optimizers.Lion`, with its names and defaults, and what
        /// Keras lacks. Numbers are f64, as in Keras's files, and become f32 where they are used.
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

        /// All options, in the order in which they are checked.
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

/// A setter of the builder, if the row says what it takes.
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
    /// How far a step moves each element, in [0, inf). 0.001 unless set.
    learning_rate(impl Into<Hyperparameter>): Hyperparameter = 1e-3.into(), Range::NOT_NEGATIVE, Key, CHANGES;
    /// The share of the old momentum in the direction of a step, in (0, 1]. 0.9 unless set.
    beta_1(impl Into<Hyperparameter>): Hyperparameter = 0.9.into(), Range::POSITIVE_FRACTION, Key, CHANGES;
    /// The share of the old momentum in the new one, in [0, 1]. 0.99 unless set.
    beta_2(impl Into<Hyperparameter>): Hyperparameter = 0.99.into(), Range::FRACTION, Key, CHANGES;
    /// Decoupled weight decay, in [0, inf): an update takes `learning_rate * weight_decay` of each element. None
    /// unless set; 0 is not none, as it rewrites a parameter of -0 as +0.
    weight_decay(impl Into<Hyperparameter>): Option<Hyperparameter> = None,
        Range::NOT_NEGATIVE, KeyFalseIsOff, CHANGES;
    /// Whether a moving average of each parameter is kept. Not unless set.
    use_ema(bool): bool = false, Range::Any, Key, FIXED;
    /// How much of itself the moving average keeps in a step, in [0, 1]. 0.99 unless set.
    ema_momentum(f64): f64 = 0.99, Range::FRACTION, Key, FIXED;
    /// Writes the average back to the parameter after every so many updates, at least 1. Never unless set.
    ema_overwrite_frequency(u64): Option<u64> = None, Range::Whole(1, u64::MAX), KeyZeroIsOff, FIXED;
    /// Divides gradients by the factor that [`Lion::scale_loss`] multiplies the loss by, in (0, inf). Not used with a
    /// dynamic loss scale.
    loss_scale_factor(f64): Option<f64> = None, Range::POSITIVE, Key, FIXED;
    /// Averages the gradients of this many calls for one update, in [2, 2^24]: the integers that f32, in which the mean
    /// is taken, tells apart.
    gradient_accumulation_steps(u32): Option<u32> = None, Range::Whole(2, 1 << 24), KeyZeroIsOff, FIXED;
    /// Keras's name of the optimizer, which only its files show. `lion` unless set.
    name(impl Into<String>): String = "lion".into(), Range::Any, KeyNullIsDefault, FIXED;
    /// Finds the loss scale at run time, as Keras's `LossScaleOptimizer` does: calls with a gradient that is not
    /// finite are skipped and halve it. `loss_scale_factor` then has no effect.
    dynamic_loss_scale(DynamicLossScale): Option<DynamicLossScale> = None, Range::Any, LossScaleOptimizer, FIXED;
    /// No weight decay for variables in whose name one of these regular expressions is found, anywhere: `bias$`, not
    /// `.*bias$`. The syntax is that of the crate `regex`. At most 256 of them.
    exclude_from_weight_decay: Vec<String> = Vec::new(), Range::Patterns, Method, FIXED;
    /// Which calls move the average where gradients are accumulated. Keras's way unless set: every call.
    ema_cadence(EmaCadence): EmaCadence = EmaCadence::EveryCall, Range::Any, Lacks, FIXED;
    /// The format of momentum, for variables that do not choose one. The parameter's own unless set.
    momentum_dtype(Dtype): Option<Dtype> = None, Range::Any, Lacks, FIXED;
    /// Rounds bf16 parameters at random when a step stores them, drawn from this seed, so that they move on average
    /// also where a step is less than half their last place. The draws depend on seed, name, call and element alone.
    /// Excludes `split_master`. Rounded to nearest unless set.
    stochastic_rounding(u64): Option<u64> = None, Range::Any, Lacks, FIXED;
    /// Keeps the low halves of bf16 parameters in the state: the two are an f32 parameter, bit for bit. Excludes
    /// `stochastic_rounding`. Not unless set.
    split_master(bool): bool = false, Range::Any, Lacks, FIXED;
    /// Does not decay elements that the step moves away from zero ("cautious" weight decay, Chen et al., 2025). Decays all
    /// unless set.
    cautious_decay(bool): bool = false, Range::Any, Lacks, CHANGES;
    /// What weight decay is multiplied by. The learning rate unless set.
    decay_scale(DecayScale): DecayScale = DecayScale::LearningRate, Range::Any, Lacks, CHANGES;

    dynamic_loss_scale {
        initial_scale: initial_scale, f64, Range::POSITIVE;
        dynamic_growth_steps: dynamic_growth_steps, u64, Range::Any;
        loss_scale_name: name, String, Range::Any;
    }
}

impl Row {
    /// The option of that name.
    ///
    /// # Errors
    /// [`Error::UnknownOption`], with the names that are nearest.
    pub fn find(name: &str) -> Result<&'static Self, Error> {
        TABLE.iter().find(|row| row.name == name).ok_or_else(|| Error::UnknownOption {
            name: excerpt(&name.into()),
            nearest: nearest::nearest(name, TABLE.iter().map(|row| row.name)).join(", "),
        })
    }

    /// The type of its values, such as "a number".
    pub fn what(&self) -> Cow<'static, str> {
        (self.what)()
    }

    /// The range of its values in words, if the type does not say it all.
    pub fn range(&self) -> Option<Cow<'static, str>> {
        self.range.text()
    }

    /// Its default.
    pub fn default(&self) -> Value {
        self.get(&Config::default())
    }

    /// Whether Keras has it.
    pub fn is_known_to_keras(&self) -> bool {
        self.keras != Keras::Lacks
    }

    /// Whether a schedule may be in the place of a number.
    pub(crate) fn takes_schedule(&self) -> bool {
        self.what() == Hyperparameter::what()
    }

    pub(crate) fn get(&self, config: &Config) -> Value {
        (self.get)(config)
    }

    /// Sets it if the value has its type.
    pub(crate) fn assign(&self, config: &mut Config, value: &Value) -> Option<()> {
        (self.assign)(config, value)
    }

    /// Checks its value, which may have been set as a field: then the type allows more than the option does.
    fn check(&self, config: &Config) -> Result<(), Error> {
        let value = self.get(config);
        match self.assign(&mut Config::default(), &value) {
            Some(()) => self.range.check(self.name, &value),
            None => Err(Error::argument(self.name, &value, self.expected())),
        }
    }

    /// Checks that it may change if it does.
    fn check_change(&self, from: &Config, to: &Config) -> Result<(), Error> {
        let value = self.get(from);
        if self.changes || self.get(to) == value {
            return Ok(());
        }
        let changing: Vec<_> = TABLE.iter().filter(|row| row.changes).map(|row| row.name).collect();
        Err(Error::FixedOption { name: self.name, value: value.to_string(), changing: changing.join(", ") })
    }

    /// What a value of another type must be.
    pub(crate) fn expected(&self) -> Cow<'static, str> {
        match self.range {
            Range::Whole(..) => self.range.text().unwrap_or_default(),
            _ => self.what(),
        }
    }
}

impl Config {
    /// Sets an option by its name.
    ///
    /// ```
    /// let mut config = lion::Config::default();
    /// config.set("weight_decay", 0.1)?;
    /// let error = config.set("weight_decay", "much").unwrap_err();
    /// assert_eq!(error.to_string(), r#"weight_decay is "much", and must be a number or a serialized schedule"#);
    /// let error = config.set("wieght_decay", 0.1).unwrap_err();
    /// assert_eq!(error.to_string(), r#"there is no option "wieght_decay"; nearest: weight_decay"#);
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownOption`]; [`Error::Argument`] for a value of another type or outside its range;
    /// [`Error::Pattern`]. The config is then as it was. [`check`](Self::check) finds options that exclude each other.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) -> Result<(), Error> {
        let (row, value) = (Row::find(name)?, value.into());
        let mut changed = self.clone();
        row.assign(&mut changed, &value).ok_or_else(|| Error::argument(row.name, &value, row.expected()))?;
        row.range.check(row.name, &row.get(&changed))?;
        *self = changed;
        Ok(())
    }

    /// Sets the options of a JSON object, by their names, each to a value as [`Value::from_json`] reads it.
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
    /// Those of [`set`](Self::set), and text that is not such an object. The config is then as it was.
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

    /// The value of an option by its name.
    ///
    /// # Errors
    /// [`Error::UnknownOption`].
    pub fn get(&self, name: &str) -> Result<Value, Error> {
        Ok(Row::find(name)?.get(self))
    }

    /// Checks every option against its range, and those that exclude each other.
    ///
    /// # Errors
    /// [`Error::Argument`] with the name, the value and the range of the first option that is outside its range,
    /// [`Error::Pattern`], [`Error::SeveralClips`]. A schedule is checked in each step.
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
    /// Sets an option by its name, from the next step on, if its [`Row`] says that it may change.
    ///
    /// ```
    /// let mut optimizer = lion::Lion::builder().build()?;
    /// optimizer.set("learning_rate", 1e-4)?;
    /// let error = optimizer.set("use_ema", true).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "use_ema is false for good, as the optimizer is built; learning_rate, beta_1, beta_2, weight_decay, cautious_decay, decay_scale may change",
    /// );
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`set_config`](Self::set_config), and of [`Config::set`]. The option is then as it was.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) -> Result<(), Error> {
        let mut config = self.config().clone();
        config.set(name, value)?;
        // Named first, as a number of the loss scale is a change of the loss scale too.
        Row::find(name)?.check_change(self.config(), &config)?;
        self.set_config(config)
    }

    /// Sets all options that may change, from the next step on. What the others are must be what they were.
    ///
    /// # Errors
    /// [`Error::FixedOption`] for an option that may not change, and those of [`Config::check`]. Every option is then as
    /// it was.
    pub fn set_config(&mut self, config: Config) -> Result<(), Error> {
        config.check()?;
        TABLE.iter().try_for_each(|row| row.check_change(&self.config, &config))?;
        self.config = config;
        Ok(())
    }
}
