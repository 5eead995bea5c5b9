//! Reads and writes Keras's JSON: `optimizer.get_config()` and `keras.optimizers.serialize(optimizer)`.

use serde_json::{Map, Value};

use super::find::{self, FoundOptimizer};
use super::{Config, DynamicLossScale, one_clip};
use crate::json::{self, KerasObject, LION_MODULE, ObjectReader};
use crate::options::{self, Keras, Row, TABLE};
use crate::{Error, Schedule, check};

const MODULE: &str = "keras.optimizers";
const LION: &str = "Lion";
const LOSS_SCALE_OPTIMIZER: &str = "LossScaleOptimizer";
/// Keras 2's name for it.
const LOSS_SCALE_OPTIMIZER_V3: &str = "LossScaleOptimizerV3";

/// The remedy for a file with a custom optimizer.
const IN_ITS_PLACE: &str = "Keras's Lion or a LossScaleOptimizer around one: write the config of one of these, and set in \
                            the program, with Lion::builder(), what the class adds";

impl Config {
    /// Reads Keras's JSON of a `Lion`, or of a `LossScaleOptimizer` around one.
    ///
    /// The JSON is the dict of `optimizer.get_config()` or of `keras.optimizers.serialize(optimizer)`, or contains one: a
    /// model's `config.json`, `model.get_compile_config()`, or the `training_config` of an `.h5` file. For the latter a log
    /// warning names the keys that lead to the optimizer. If the model's dtype policy is `mixed_float16`, the optimizer
    /// gets a `LossScaleOptimizer` with default arguments, as in Keras.
    ///
    /// Configs of Keras 2 (`tf.keras`, `tf_keras`) are read too, although Keras 3 refuses their `is_legacy_optimizer`,
    /// `jit_compile` and `LossScaleOptimizerV3`. The result is the optimizer that Keras 3 makes from the same arguments.
    /// Keras 2 itself differs: it starts the moving average at the parameter instead of 0, multiplies by the reciprocal of
    /// the loss scale, and keeps a dynamic scale in [1, inf).
    ///
    /// Missing keys have their defaults, and `decay` is ignored, as in Keras. If Keras reads 0 as "off" (the clips,
    /// `gradient_accumulation_steps`, `ema_overwrite_frequency`), 0 and `false` are off here too, and so is `false` for
    /// `weight_decay`. Unlike Keras, this checks `beta_2`, negative clips, `ema_momentum` without `use_ema`, and unknown
    /// keys of the outer object.
    ///
    /// ```
    /// let config = lion::Config::from_json(r#"{"learning_rate": 0.0003, "clipnorm": 0}"#)?;
    /// assert_eq!(config.clipnorm, None);
    ///
    /// let error = lion::Config::from_json(r#"{"beta_1": 1.5}"#).unwrap_err();
    /// assert_eq!(error.to_string(), "beta_1 is 1.5, and must be in (0, 1]");
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`Error::Json`], [`Error::UnknownKey`], [`Error::MissingKey`],
    /// [`Error::Custom`] for classes and functions that are not Keras's own, and [`Error::NoOptimizer`];
    /// each names the key, with the keys that lead to it.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let (config, notes) = Self::from_text(text)?;
        for note in notes {
            log::warn!("{note}");
        }
        Ok(config)
    }

    /// Reads the text, and also returns notes for the user's log.
    pub(super) fn from_text(text: &str) -> Result<(Self, Vec<String>), Error> {
        let FoundOptimizer { value, path, mut notes, scales } = find::optimizer(json::parse(text)?)?;
        let config = Self::read_optimizer(value).map_err(|error| match path.as_str() {
            "" if matches!(error, Error::Custom { .. }) => error.named("the optimizer"),
            "" => error.named("the config"),
            path => error.under(path),
        })?;
        if !scales || config.dynamic_loss_scale.is_some() {
            return Ok((config, notes));
        }
        notes.push(
            "the model's policy is mixed_float16: a LossScaleOptimizer is around the optimizer, as in Keras"
                .into(),
        );
        let scale = Some(DynamicLossScale::default());
        Ok((Config { loss_scale_factor: None, dynamic_loss_scale: scale, ..config }, notes))
    }

    fn read_optimizer(value: Value) -> Result<Self, Error> {
        if value.get("class_name").is_some() {
            return Self::read_wrapped(value, &[LION, LOSS_SCALE_OPTIMIZER, LOSS_SCALE_OPTIMIZER_V3]);
        }
        let fields = ObjectReader::new(value)?;
        if fields.contains("inner_optimizer") {
            Self::read_loss_scale_optimizer(fields)
        } else {
            Self::read_lion(fields)
        }
    }

    /// Writes the form of `keras.optimizers.serialize(optimizer)`, which `keras.optimizers.deserialize` reads.
    /// `exclude_from_weight_decay` is left out, as it is a method of the optimizer in Keras.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); [`Error::NotSerializable`] for a closure; [`Error::NotOfKeras`] for a schedule that
    /// Keras does not have, for a schedule of anything but the learning rate, and for an option that Keras does not have
    /// and that is not at its default.
    pub fn to_json(&self) -> Result<String, Error> {
        let (class, config) = self.write_for_keras()?;
        Ok(pretty(&KerasObject::write(MODULE, class, config)))
    }

    /// Writes the form of `optimizer.get_config()`, which `from_config` reads.
    ///
    /// # Errors
    /// As [`to_json`](Self::to_json).
    pub fn to_bare_json(&self) -> Result<String, Error> {
        let (_, config) = self.write_for_keras()?;
        Ok(pretty(&config.into()))
    }

    /// Writes the form of [`to_json`](Self::to_json) with all schedules and options, also those that Keras cannot load;
    /// [`from_json`](Self::from_json) reads it. Schedules that Keras does not have get the module `lion`. Options that its
    /// configs do not have are in an object `lion`, if they are not at their defaults.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`Error::NotSerializable`] for a closure.
    pub fn to_lion_json(&self) -> Result<String, Error> {
        let (class, config) = self.write(true)?;
        Ok(pretty(&KerasObject::write(MODULE, class, config)))
    }

    /// Returns an error for a value that Keras cannot load. Keras deserializes only the learning rate's schedule; any other
    /// stays a dict, and the first step fails.
    fn check_for_keras(&self) -> Result<(), Error> {
        for row in TABLE {
            let value = row.get(self);
            let what = match &value {
                options::Value::Schedule(_) if row.name != "learning_rate" => "a schedule".into(),
                options::Value::Schedule(schedule) if !schedule.is_of_keras() => value.to_string(),
                _ if !row.is_known_to_keras() && value != row.default() => value.to_string(),
                _ => continue,
            };
            return Err(Error::NotOfKeras { name: row.name, what });
        }
        Ok(())
    }

    fn read_wrapped(value: Value, classes: &[&str]) -> Result<Self, Error> {
        let mut wrapped = KerasObject::read(value)?;
        wrapped.check_origin(IN_ITS_PLACE)?;
        // Keras also ignores the case of an optimizer's class.
        let class = classes.iter().find(|class| class.eq_ignore_ascii_case(wrapped.plain_class()));
        let Some(class) = class else {
            let quoted: Vec<_> = classes
                .iter()
                .filter(|class| **class != LOSS_SCALE_OPTIMIZER_V3)
                .map(|class| format!("{class:?}"))
                .collect();
            return Err(wrapped.unknown_class(quoted.join(" or ")));
        };
        wrapped.check_module(MODULE)?;
        let read = if *class == LION { Self::read_lion } else { Self::read_loss_scale_optimizer };
        ObjectReader::new(wrapped.config.take()).and_then(read).map_err(|error| error.under("config"))
    }

    fn read_loss_scale_optimizer(mut fields: ObjectReader) -> Result<Self, Error> {
        let inner = Self::read_wrapped(fields.required_value("inner_optimizer", "an object")?, &[LION])
            .map_err(|error| error.under("inner_optimizer"))?;
        let is_dynamic = fields.or("dynamic", true)?;
        let default = DynamicLossScale::default();
        let scale = DynamicLossScale {
            initial_scale: match is_dynamic {
                true => fields.or("initial_scale", default.initial_scale)?,
                // A fixed scale has no default.
                false => fields.required("initial_scale")?,
            },
            dynamic_growth_steps: match is_dynamic {
                true => fields.or("dynamic_growth_steps", default.dynamic_growth_steps)?,
                // Nothing reads it.
                false => fields.option("dynamic_growth_steps")?.unwrap_or(default.dynamic_growth_steps),
            },
            name: fields.option("name")?.unwrap_or(default.name),
        };
        check::positive("initial_scale", scale.initial_scale)?;
        for (key, idle) in idle_arguments() {
            let idle = idle?;
            if let Some(found) = fields.value(key)
                && found != idle
            {
                return Err(json::wrong(key, &found, "set in inner_optimizer instead"));
            }
        }
        fields.finish()?;
        // Keras disables the inner scale, so that the loss is not scaled twice.
        Ok(match is_dynamic {
            true => Config { loss_scale_factor: None, dynamic_loss_scale: Some(scale), ..inner },
            false => Config { loss_scale_factor: Some(scale.initial_scale), ..inner },
        })
    }

    fn read_lion(mut fields: ObjectReader) -> Result<Self, Error> {
        check_clips(&fields)?;
        let mut config = Self::default();
        for row in TABLE.iter().filter(|row| row.keras.is_key()) {
            config.read_option(row, &mut fields)?;
        }
        // Keras accepts this argument of older versions and ignores it.
        fields.value("decay");
        // Keys of Keras 2 that do not affect the result.
        fields.option::<bool>("jit_compile")?;
        fields.option::<bool>("is_legacy_optimizer")?;
        if fields.contains(LION_MODULE)
            && let Some(own) = fields.value(LION_MODULE)
        {
            config.read_own(own).map_err(|error| error.under(LION_MODULE))?;
        }
        config.check()?;
        fields.finish()?;
        Ok(config)
    }

    /// Reads the options that Keras's configs do not have.
    fn read_own(&mut self, value: Value) -> Result<(), Error> {
        let mut fields = ObjectReader::new(value)?;
        for row in TABLE.iter().filter(|row| row.keras.is_key_of_lion()) {
            self.read_option(row, &mut fields)?;
        }
        fields.finish()
    }

    /// Reads an option. If its key is absent, it keeps its default.
    fn read_option(&mut self, row: &Row, fields: &mut ObjectReader) -> Result<(), Error> {
        let Some(value) = fields.value(row.name) else { return Ok(()) };
        let is_off = match row.keras {
            Keras::KeyZeroIsOff => value == false || value.as_f64() == Some(0.0),
            Keras::KeyFalseIsOff => value == false,
            Keras::KeyNullIsDefault => value.is_null(),
            _ => false,
        };
        if is_off {
            return Ok(());
        }
        let given = match value {
            Value::Object(_) if row.takes_schedule() => Some(options::Value::Schedule(
                Schedule::read(value.clone()).map_err(|error| error.under(row.name))?,
            )),
            _ => options::Value::of_json(&value),
        };
        let set = given.and_then(|given| row.assign(self, &given));
        set.ok_or_else(|| json::wrong(row.name, &value, row.expected()))
    }

    fn write_for_keras(&self) -> Result<(&'static str, Map<String, Value>), Error> {
        let written = self.write(false)?;
        self.check_for_keras()?;
        Ok(written)
    }

    /// Returns the class and its config, with or without the options that Keras's configs do not have.
    fn write(&self, with_own: bool) -> Result<(&'static str, Map<String, Value>), Error> {
        self.check()?;
        let inner = self.write_lion(with_own)?;
        let Some(scale) = &self.dynamic_loss_scale else { return Ok((LION, inner)) };
        let entries = [
            ("name", scale.name.as_str().into()),
            ("inner_optimizer", KerasObject::write(MODULE, LION, inner)),
            ("initial_scale", json::float(scale.initial_scale)),
            ("dynamic_growth_steps", scale.dynamic_growth_steps.into()),
        ];
        Ok((LOSS_SCALE_OPTIMIZER, object(entries)))
    }

    /// Returns the config of the inner Lion. Options that Keras's configs do not have are in an object `lion`, if they are
    /// not at their defaults.
    fn write_lion(&self, with_own: bool) -> Result<Map<String, Value>, Error> {
        let (mut entries, mut own) = (Map::new(), Map::new());
        for row in TABLE {
            let value = row.get(self);
            let is_default = value == row.default();
            let value = value.to_json().map_err(|error| error.under(row.name))?;
            if row.keras.is_key() {
                entries.insert(row.name.into(), value);
            } else if with_own && row.keras.is_key_of_lion() && !is_default {
                own.insert(row.name.into(), value);
            }
        }
        if self.dynamic_loss_scale.is_some() {
            entries.insert("loss_scale_factor".into(), Value::Null);
        }
        if !own.is_empty() {
            entries.insert(LION_MODULE.into(), own.into());
        }
        Ok(entries)
    }
}

/// Returns the keys, with their only allowed values, that older versions of Keras wrote to a `LossScaleOptimizer`'s config
/// without effect: the arguments of every optimizer.
fn idle_arguments() -> impl Iterator<Item = (&'static str, Result<Value, Error>)> {
    const USED: [&str; 4] = ["learning_rate", "beta_1", "beta_2", "name"];
    let idle = TABLE.iter().filter(|row| row.keras.is_key() && !USED.contains(&row.name));
    idle.map(|row| (row.name, row.default().to_json()))
}

/// Refuses several clips. Like Keras it counts a clip of 0, which clips nothing.
fn check_clips(fields: &ObjectReader) -> Result<(), Error> {
    let clips = ["clipnorm", "global_clipnorm", "clipvalue"];
    one_clip(&clips.map(|key| {
        let value = fields.peek(key);
        (key, value.and_then(|value| if *value == false { Some(0.0) } else { value.as_f64() }))
    }))
}

fn object<const N: usize>(entries: [(&str, Value); N]) -> Map<String, Value> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}
