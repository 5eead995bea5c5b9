//! [`Value`]: the value of an option, of any type.

use std::fmt;

use serde_json::Value as Json;

use crate::json::{self, excerpt};
use crate::{DecayScale, Dtype, EmaCadence, Error, Hyperparameter, Schedule};

/// The value of an option that is set or read by name, as from C, Python or the command line.
///
/// ```
/// use lion::options::Value;
///
/// assert_eq!(Value::from(Some(0.5)), Value::Float(0.5));
/// assert_eq!(Value::from_json(r#"["bias$", "norm"]"#)?, Value::from(vec!["bias$", "norm"]));
/// # Ok::<(), lion::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Off, for options that can be off.
    None,
    /// On or off.
    Bool(bool),
    /// A whole number. Options that allow fractions accept it too.
    Integer(i128),
    /// A number. Options that need a whole number accept one in this form, as Python does.
    Float(f64),
    /// A text, such as the name of a dtype.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
    /// A schedule.
    Schedule(Schedule),
}

impl Value {
    /// Reads a value from JSON. A schedule is the object that Keras serializes it to; null is none.
    ///
    /// # Errors
    /// [`Error::Json`], the errors of a schedule's config, and [`Error::Argument`] for a list with elements other than
    /// texts.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        Self::read(json::parse(text)?).map_err(|error| error.named("the value"))
    }

    /// Converts a JSON value.
    pub(crate) fn read(value: Json) -> Result<Self, Error> {
        match value {
            object @ Json::Object(_) => Schedule::read(object).map(Value::Schedule),
            value => Self::of_json(&value)
                .ok_or_else(|| json::wrong("", &value, "a scalar, a list of strings or a schedule")),
        }
    }

    /// Converts a JSON value, or returns `None` for an object and for a list with elements other than texts.
    pub(crate) fn of_json(value: &Json) -> Option<Self> {
        Some(match value {
            Json::Null => Value::None,
            Json::Bool(on) => Value::Bool(*on),
            Json::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => number.into(),
                (None, Some(number)) => number.into(),
                (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(elements) => {
                let texts = elements.iter().map(|element| element.as_str().map(str::to_owned));
                Value::List(texts.collect::<Option<_>>()?)
            }
            Json::Object(_) => return None,
        })
    }

    /// Converts to JSON, as files hold it.
    ///
    /// # Errors
    /// [`Error::NotSerializable`] for a closure.
    pub(crate) fn to_json(&self) -> Result<Json, Error> {
        Ok(match self {
            Value::None => Json::Null,
            Value::Bool(on) => (*on).into(),
            // Integers of options fit in a u64.
            Value::Integer(number) => match u64::try_from(*number) {
                Ok(number) => number.into(),
                Err(_) => json::float(*number as f64),
            },
            Value::Float(number) => json::float(*number),
            Value::Text(text) => text.as_str().into(),
            Value::List(texts) => texts.as_slice().into(),
            Value::Schedule(schedule) => schedule.write()?,
        })
    }
}

/// Writes the value as errors show it: one short line.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("none"),
            Value::Bool(on) => on.fmt(f),
            Value::Integer(number) => number.fmt(f),
            Value::Float(number) => number.fmt(f),
            Value::Text(text) => f.write_str(&excerpt(&text.as_str().into())),
            Value::List(texts) => write!(f, "a list of {}", texts.len()),
            Value::Schedule(schedule) => write!(f, "the schedule {}", schedule.class_name()),
        }
    }
}

/// Rows: a type, and its conversion.
macro_rules! values {
    ($($type:ty: |$given:ident| $value:expr;)+) => {$(
        impl From<$type> for Value {
            fn from($given: $type) -> Self {
                $value
            }
        }
    )+};
}

values! {
    bool: |on| Value::Bool(on);
    i32: |number| Value::Integer(number.into());
    i64: |number| Value::Integer(number.into());
    u32: |number| Value::Integer(number.into());
    u64: |number| Value::Integer(number.into());
    f64: |number| Value::Float(number);
    &str: |text| Value::Text(text.into());
    String: |text| Value::Text(text);
    Vec<&str>: |texts| Value::List(texts.into_iter().map(str::to_owned).collect());
    Vec<String>: |texts| Value::List(texts);
    Dtype: |dtype| Value::Text(dtype.to_string());
    EmaCadence: |cadence| Value::Text(cadence.to_string());
    DecayScale: |scale| Value::Text(scale.to_string());
    Schedule: |schedule| Value::Schedule(schedule);
    Hyperparameter: |value| match value {
        Hyperparameter::Constant(number) => Value::Float(number),
        Hyperparameter::Scheduled(schedule) => Value::Schedule(schedule),
    };
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::None, Into::into)
    }
}
