//! Keras's JSON: `optimizer.get_config()` and `keras.optimizers.serialize(optimizer)`.

use serde_json::{Map, Value};

use super::find::{self, Found};
use super::{Config, DynamicLossScale, EMA_OVERWRITE_FREQUENCY, GRADIENT_ACCUMULATION_STEPS, one_clip};
use crate::json::{self, Fields, FromJson, Wrapped};
use crate::{Error, Hyperparameter, check};

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
    /// Those of [`validate`](Self::validate), and [`Error::Json`], [`Error::UnknownKey`], [`Error::MissingKey`],
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
        let Found { value, path, mut notes, scales } = find::optimizer(json::parse(text)?)?;
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
        let fields = Fields::new(value)?;
        if fields.contains("inner_optimizer") {
            Self::read_loss_scale_optimizer(fields)
        } else {
            Self::read_lion(fields)
        }
    }

    /// Writes the form of `keras.optimizers.serialize(optimizer)`, which `keras.optimizers.deserialize` takes.
    ///
    /// # Errors
    /// Those of [`validate`](Self::validate), [`Error::NotSerializable`] for a closure, and [`Error::NotOfKeras`] for
    /// schedules that Keras lacks, and for any schedule but that of the learning rate.
    pub fn to_json(&self) -> Result<String, Error> {
        let (class, config) = self.write()?;
        self.check_for_keras()?;
        Ok(pretty(&Wrapped::write(MODULE, class, config)))
    }

    /// Writes the form of `optimizer.get_config()`, which `from_config` takes.
    ///
    /// # Errors
    /// As [`to_json`](Self::to_json).
    pub fn to_bare_json(&self) -> Result<String, Error> {
        let (_, config) = self.write()?;
        self.check_for_keras()?;
        Ok(pretty(&config.into()))
    }

    /// Writes the form of [`to_json`](Self::to_json) for [`from_json`](Self::from_json) alone: with any schedules, also
    /// where Keras cannot load them. Those that Keras lacks have the module `lion`.
    ///
    /// # Errors
    /// Those of [`validate`](Self::validate), and [`Error::NotSerializable`] for a closure.
    pub fn to_lion_json(&self) -> Result<String, Error> {
        let (class, config) = self.write()?;
        Ok(pretty(&Wrapped::write(MODULE, class, config)))
    }

    /// Keras makes an instance of the learning rate's schedule, and leaves others the dict that they are in the file. It
    /// notices in the first step.
    fn check_for_keras(&self) -> Result<(), Error> {
        let refused = |name, what| Err(Error::NotOfKeras { name, what });
        if let Hyperparameter::Scheduled(schedule) = &self.learning_rate
            && !schedule.is_of_keras()
        {
            return refused("learning_rate", format!("the schedule {}", schedule.class_name()));
        }
        let constants = [
            ("weight_decay", self.weight_decay.as_ref()),
            ("beta_1", Some(&self.beta_1)),
            ("beta_2", Some(&self.beta_2)),
        ];
        for (name, value) in constants {
            if let Some(Hyperparameter::Scheduled(_)) = value {
                return refused(name, "a schedule".into());
            }
        }
        Ok(())
    }

    fn read_wrapped(value: Value, classes: &[&str]) -> Result<Self, Error> {
        let mut wrapped = Wrapped::read(value)?;
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
        Fields::new(wrapped.config.take()).and_then(read).map_err(|error| error.under("config"))
    }

    fn read_loss_scale_optimizer(mut fields: Fields) -> Result<Self, Error> {
        let inner = Self::read_wrapped(fields.required("inner_optimizer")?, &[LION])
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

    fn read_lion(mut fields: Fields) -> Result<Self, Error> {
        let default = Config::default();
        if fields.peek("weight_decay") == Some(&Value::Bool(false)) {
            fields.value("weight_decay");
        }
        let clips = ["clipnorm", "global_clipnorm", "clipvalue"];
        let [clipnorm, global_clipnorm, clipvalue] = read_clips(&mut fields, clips)?;
        let config = Config {
            learning_rate: constant_or(&mut fields, "learning_rate", default.learning_rate)?,
            beta_1: constant_or(&mut fields, "beta_1", default.beta_1)?,
            beta_2: constant_or(&mut fields, "beta_2", default.beta_2)?,
            weight_decay: Hyperparameter::read(&mut fields, "weight_decay")?,
            clipnorm,
            global_clipnorm,
            clipvalue,
            use_ema: fields.or("use_ema", default.use_ema)?,
            ema_momentum: fields.or("ema_momentum", default.ema_momentum)?,
            ema_overwrite_frequency: positive_count(
                &mut fields,
                "ema_overwrite_frequency",
                EMA_OVERWRITE_FREQUENCY,
            )?,
            loss_scale_factor: fields.option("loss_scale_factor")?,
            gradient_accumulation_steps: positive_count(
                &mut fields,
                "gradient_accumulation_steps",
                GRADIENT_ACCUMULATION_STEPS,
            )?,
            name: fields.option("name")?.unwrap_or(default.name),
            dynamic_loss_scale: None,
        };
        // Keras takes this argument of older versions and ignores it.
        fields.value("decay");
        // Keras 2 says by these how it computes, and not what.
        fields.option::<bool>("jit_compile")?;
        fields.option::<bool>("is_legacy_optimizer")?;
        config.validate()?;
        fields.finish()?;
        Ok(config)
    }

    /// The class, and its config.
    fn write(&self) -> Result<(&'static str, Map<String, Value>), Error> {
        self.validate()?;
        let inner = self.write_lion()?;
        let Some(scale) = &self.dynamic_loss_scale else { return Ok((LION, inner)) };
        let entries = [
            ("name", scale.name.as_str().into()),
            ("inner_optimizer", Wrapped::write(MODULE, LION, inner)),
            ("initial_scale", json::float(scale.initial_scale)),
            ("dynamic_growth_steps", scale.dynamic_growth_steps.into()),
        ];
        Ok((LOSS_SCALE_OPTIMIZER, object(entries)))
    }

    fn write_lion(&self) -> Result<Map<String, Value>, Error> {
        let number = |value: Option<f64>| value.map_or(Value::Null, json::float);
        let hyperparameter =
            |key: &'static str, value: &Hyperparameter| value.write().map_err(|error| error.under(key));
        let factor = if self.dynamic_loss_scale.is_some() { None } else { self.loss_scale_factor };
        let decay = self.weight_decay.as_ref();
        let decay = decay.map(|value| hyperparameter("weight_decay", value)).transpose()?;
        Ok(object([
            ("name", self.name.as_str().into()),
            ("learning_rate", hyperparameter("learning_rate", &self.learning_rate)?),
            ("weight_decay", decay.unwrap_or(Value::Null)),
            ("clipnorm", number(self.clipnorm)),
            ("global_clipnorm", number(self.global_clipnorm)),
            ("clipvalue", number(self.clipvalue)),
            ("use_ema", self.use_ema.into()),
            ("ema_momentum", json::float(self.ema_momentum)),
            ("ema_overwrite_frequency", self.ema_overwrite_frequency.into()),
            ("loss_scale_factor", number(factor)),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps.into()),
            ("beta_1", hyperparameter("beta_1", &self.beta_1)?),
            ("beta_2", hyperparameter("beta_2", &self.beta_2)?),
        ]))
    }
}

/// What older versions of Keras wrote into a `LossScaleOptimizer`'s config, where it means nothing: other values are
/// refused.
fn idle_arguments() -> [(&'static str, Value); 9] {
    [
        ("weight_decay", Value::Null),
        ("clipnorm", Value::Null),
        ("global_clipnorm", Value::Null),
        ("clipvalue", Value::Null),
        ("use_ema", false.into()),
        ("ema_momentum", json::float(0.99)),
        ("ema_overwrite_frequency", Value::Null),
        ("loss_scale_factor", Value::Null),
        ("gradient_accumulation_steps", Value::Null),
    ]
}

/// Keras counts a clip of 0 when it looks for several, and clips by none.
fn read_clips(fields: &mut Fields, keys: [&'static str; 3]) -> Result<[Option<f64>; 3], Error> {
    let mut clips = [None; 3];
    for (clip, key) in clips.iter_mut().zip(keys) {
        fields.false_is_zero(key);
        *clip = fields.option(key)?;
    }
    let [first, second, third] = keys;
    let [norm, global, value] = clips;
    one_clip([(first, norm), (second, global), (third, value)])?;
    Ok(clips.map(|clip| clip.filter(|&limit| limit != 0.0)))
}

/// A count that Keras takes as off where it is 0.
fn positive_count<T: TryFrom<u64>>(
    fields: &mut Fields,
    key: &'static str,
    allowed: &'static str,
) -> Result<Option<T>, Error> {
    fields.false_is_zero(key);
    let value = fields.value(key).unwrap_or(Value::Null);
    match u64::from_json(value.clone()).map(|count| (count, T::try_from(count))) {
        _ if value.is_null() => Ok(None),
        Ok((0, _)) => Ok(None),
        Ok((_, Ok(count))) => Ok(Some(count)),
        _ => Err(json::wrong(key, &value, allowed)),
    }
}

/// A hyperparameter that cannot be off.
fn constant_or(
    fields: &mut Fields,
    key: &'static str,
    default: Hyperparameter,
) -> Result<Hyperparameter, Error> {
    if !fields.contains(key) {
        // The key is known all the same.
        fields.value(key);
        return Ok(default);
    }
    Hyperparameter::read(fields, key)?
        .ok_or_else(|| json::wrong(key, &Value::Null, "a number or a serialized schedule"))
}

fn object<const N: usize>(entries: [(&str, Value); N]) -> Map<String, Value> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}
