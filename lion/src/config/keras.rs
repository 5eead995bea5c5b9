//! Keras's JSON: `optimizer.get_config()` and `keras.optimizers.serialize(optimizer)`.

use serde_json::{Map, Value};

use super::find::{self, FoundOptimizer};
use super::{Config, DynamicLossScale, one_clip};
use crate::json::{self, KerasObject, LION_MODULE, ObjectReader};
use crate::options::{self, Keras, Row, TABLE};
use crate::{Error, Schedule, check};

const MODULE: &str = "keras.optimizers";
const LION: &str = "Lion";
const LOSS_SCALE_OPTIMIZER: &str = "LossScaleOptimizer";
/// Keras 2's class of the same.
const LOSS_SCALE_OPTIMIZER_V3: &str = "LossScaleOptimizerV3";

/// What can stand in a file in place of a custom optimizer, and what in a program.
const IN_ITS_PLACE: &str = "Keras's Lion or a LossScaleOptimizer around one: write the config of one of these, and set in \
                            the program, with Lion::builder(), what the class adds";

impl Config {
    /// Reads Keras's JSON of a `Lion` or of a `LossScaleOptimizer` around one: the dict of `optimizer.get_config()`, that
    /// of `keras.optimizers.serialize(optimizer)`, or one that holds such a dict. These are a model's `config.json`,
    /// `model.get_compile_config()`, and `training_config` of an `.h5` file. A warning in the log then names the keys that
    /// lead to the optimizer. A model whose dtype policy is `mixed_float16` has a `LossScaleOptimizer` with its defaults
    /// around its optimizer, as in Keras.
    ///
    /// Configs of Keras 2 (`tf.keras`, `tf_keras`) are read too, though Keras 3 refuses their `is_legacy_optimizer` and
    /// `jit_compile`, and does not know their `LossScaleOptimizerV3`. They make the optimizer that Keras 3 makes of the
    /// same arguments. Keras 2 itself starts a moving average at the parameter and not at 0, multiplies by the reciprocal
    /// of a loss scale, and keeps a dynamic one within [1, inf).
    ///
    /// What is left out has its default, and `decay` is ignored, as Keras does with a warning. Where Keras takes a 0
    /// as "off" (the clips, `gradient_accumulation_steps`, `ema_overwrite_frequency`), so does this, also if it is written
    /// as `false`; a `weight_decay` of `false` is off. This is stricter where Keras does not look: `beta_2`, clips below
    /// 0, `ema_momentum` without `use_ema`, keys of the outer object.
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

    /// Also returns what a user should know of how it was read.
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

    /// Writes the form of `keras.optimizers.serialize(optimizer)`, which `keras.optimizers.deserialize` takes.
    /// `exclude_from_weight_decay` is left out: in Keras it is a method to be called on the optimizer.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), [`Error::NotSerializable`] for a closure, and [`Error::NotOfKeras`] for
    /// schedules that Keras lacks, for any schedule but that of the learning rate, and for options that Keras lacks and
    /// that are not at their defaults.
    pub fn to_json(&self) -> Result<String, Error> {
        let (class, config) = self.write_for_keras()?;
        Ok(pretty(&KerasObject::write(MODULE, class, config)))
    }

    /// Writes the form of `optimizer.get_config()`, which `from_config` takes.
    ///
    /// # Errors
    /// As [`to_json`](Self::to_json).
    pub fn to_bare_json(&self) -> Result<String, Error> {
        let (_, config) = self.write_for_keras()?;
        Ok(pretty(&config.into()))
    }

    /// Writes the form of [`to_json`](Self::to_json) for [`from_json`](Self::from_json) alone: with any schedules and
    /// options, also where Keras cannot load them. Schedules that Keras lacks have the module `lion`; options that its
    /// configs lack are in an object `lion` beside the others, if they are not at their defaults.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`Error::NotSerializable`] for a closure.
    pub fn to_lion_json(&self) -> Result<String, Error> {
        let (class, config) = self.write(true)?;
        Ok(pretty(&KerasObject::write(MODULE, class, config)))
    }

    /// Keras makes an instance of the learning rate's schedule, and leaves others the dict that they are in the file. It
    /// notices in the first step.
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
        // Keras too does not look at the case of an optimizer's class.
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
        // Keras switches the inner scale off, so that it does not count twice.
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
        // Keras takes this argument of older versions and ignores it.
        fields.value("decay");
        // Keras 2 says by these how it computes, and not what.
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

    /// Reads the options that no config of Keras has.
    fn read_own(&mut self, value: Value) -> Result<(), Error> {
        let mut fields = ObjectReader::new(value)?;
        for row in TABLE.iter().filter(|row| row.keras.is_key_of_lion()) {
            self.read_option(row, &mut fields)?;
        }
        fields.finish()
    }

    /// Reads an option, which has its default if its key is absent.
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

    /// The class, and its config, with or without the object of the options that no config of Keras has.
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

    /// The options that no config of Keras has are in an object of their own, where they are not at their defaults.
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

/// What older versions of Keras wrote into a `LossScaleOptimizer`'s config, where it means nothing: other values are
/// refused. They are the arguments of every optimizer, which are not Lion's own.
fn idle_arguments() -> impl Iterator<Item = (&'static str, Result<Value, Error>)> {
    const USED: [&str; 4] = ["learning_rate", "beta_1", "beta_2", "name"];
    let idle = TABLE.iter().filter(|row| row.keras.is_key() && !USED.contains(&row.name));
    idle.map(|row| (row.name, row.default().to_json()))
}

/// Keras counts a clip of 0 when it looks for several, and clips by none.
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
