//! Strict reading of JSON as Python writes it: no duplicate and no unknown keys.

mod keras_object;
mod plain;

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::Error;
use crate::options::{self, Setting};

pub(crate) use keras_object::KerasObject;

/// The module that files give to classes and options that Keras does not have.
pub(crate) const LION_MODULE: &str = "lion";

/// Parses a text, with or without a byte order mark. Unlike serde_json's own parsing into a [`Value`], it refuses duplicate
/// keys, and its errors name the key.
pub(crate) fn parse(text: &str) -> Result<Value, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut path = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(text);
    let tree = Tree { path: &mut path }.deserialize(&mut reader);
    let parsed = tree.and_then(|value| reader.end().map(|()| value));
    parsed.map_err(|error| {
        let outer = path.len().saturating_sub(DEEPEST_SHOWN);
        let keys: Vec<_> = path.iter().skip(outer).map(|key| shown(key)).collect();
        let place = if outer > 0 { format!("….{}", keys.join(".")) } else { keys.join(".") };
        match non_finite(text, &error) {
            Some(token) if !place.is_empty() => Error::argument(place, token, "a finite number"),
            _ if place.is_empty() => {
                Error::Json { place: "not valid JSON".into(), reason: error.to_string() }
            }
            _ => Error::Json { place, reason: error.to_string() },
        }
    })
}

/// Parses a text that is an object, and returns its entries in the order of their keys.
pub(crate) fn object(text: &str) -> Result<Map<String, Value>, Error> {
    match parse(text)? {
        Value::Object(entries) => Ok(entries),
        other => Err(wrong("the text", &other, "an object")),
    }
}

/// The number of keys that an error shows: more than a config nests.
const DEEPEST_SHOWN: usize = 8;

/// Returns the token at the error if it is a non-finite number, which Python writes and JSON does not allow.
fn non_finite(text: &str, error: &serde_json::Error) -> Option<&'static str> {
    let line = text.lines().nth(error.line().checked_sub(1)?)?.as_bytes();
    // The column is at the token's first byte, or at the first byte after a minus.
    let at = error.column().saturating_sub(3);
    let near = line.get(at..)?;
    (0..4).find_map(|skip| {
        let rest = near.get(skip..)?;
        ["NaN", "-Infinity", "Infinity"].into_iter().find(|token| rest.starts_with(token.as_bytes()))
    })
}

/// Builds a [`Value`]. After an error `path` holds the keys that lead to it.
struct Tree<'a> {
    path: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = elements.next_element_seed(Tree { path: self.path })? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.path.push(key.clone());
            if map.contains_key(&key) {
                return Err(A::Error::custom("duplicate key"));
            }
            let value = entries.next_value_seed(Tree { path: self.path })?;
            self.path.pop();
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Reads the entries of an object, each once. [`finish`](Self::finish) refuses entries that were not read. Numbers and
/// lists come without Keras's wrappers. Errors name the key within the object; the caller adds the object's own path by
/// [`Error::under`].
#[derive(Debug)]
pub(crate) struct ObjectReader {
    entries: Map<String, Value>,
    known: Vec<&'static str>,
}

impl ObjectReader {
    pub(crate) fn new(value: Value) -> Result<Self, Error> {
        match value {
            Value::Object(entries) => {
                let unwrapped = |(key, value): (String, Value)| {
                    let value = plain::unwrap(&shown(&key), value)?;
                    Ok::<_, Error>((key, value))
                };
                let entries = entries.into_iter().map(unwrapped).collect::<Result<_, _>>()?;
                Ok(ObjectReader { entries, known: Vec::new() })
            }
            other => Err(Error::argument("", excerpt(&other), "an object")),
        }
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    pub(crate) fn peek(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    pub(crate) fn value(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.entries.remove(key)
    }

    /// Reads the value under `key`; `None` if the key is absent or null.
    pub(crate) fn option<T: Setting>(&mut self, key: &'static str) -> Result<Option<T>, Error> {
        match self.value(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => convert(key, &value).map(Some),
        }
    }

    /// Reads the value under `key`, or returns the default if the key is absent. A null has the wrong type.
    pub(crate) fn or<T: Setting>(&mut self, key: &'static str, default: T) -> Result<T, Error> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => convert(key, &value),
        }
    }

    /// Reads the value under `key`, which has no default.
    pub(crate) fn required<T: Setting>(&mut self, key: &'static str) -> Result<T, Error> {
        convert(key, &self.required_value(key, T::what())?)
    }

    /// Takes the value under `key`, which has no default. `allowed` describes it in the error.
    pub(crate) fn required_value(
        &mut self,
        key: &'static str,
        allowed: impl Into<Cow<'static, str>>,
    ) -> Result<Value, Error> {
        self.value(key).ok_or_else(|| Error::MissingKey { key: key.into(), allowed: allowed.into() })
    }

    /// Reads the list of numbers under `key`, which has no default.
    pub(crate) fn numbers(&mut self, key: &'static str) -> Result<Vec<f64>, Error> {
        const WHAT: &str = "a list of numbers";
        match self.required_value(key, WHAT)? {
            Value::Array(elements) => {
                let number = |(index, value)| convert(&format!("{key}[{index}]"), value);
                elements.iter().enumerate().map(number).collect()
            }
            other => Err(wrong(key, &other, WHAT)),
        }
    }

    /// Returns an error if an entry has not been read.
    pub(crate) fn finish(self) -> Result<(), Error> {
        match self.entries.keys().next() {
            None => Ok(()),
            Some(key) => Err(Error::UnknownKey { key: shown(key), known: self.known.join(", ") }),
        }
    }
}

/// Returns the error of a value that is not allowed.
pub(crate) fn wrong(key: &str, value: &Value, allowed: impl Into<Cow<'static, str>>) -> Error {
    Error::argument(key, excerpt(value), allowed)
}

fn convert<T: Setting>(key: &str, value: &Value) -> Result<T, Error> {
    options::Value::of_json(value).as_ref().and_then(T::of).ok_or_else(|| wrong(key, value, T::what()))
}

/// Returns a number that is written with a decimal point, since Keras expects a Python float and `1` is an int. Only
/// finite numbers are written, as a config is checked first.
pub(crate) fn float(value: f64) -> Value {
    Value::from(value)
}

/// Returns a number of steps, which Keras writes as an integer.
pub(crate) fn steps(value: f64) -> Value {
    // Up to 2^53 every integer is exact in f64.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT { Value::from(value as i64) } else { float(value) }
}

/// Returns a value as an error shows it: one short line.
pub(crate) fn excerpt(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".into(),
        Value::Array(elements) => format!("a list of {}", elements.len()),
        Value::String(text) => format!("{:?}", shorten(text)),
        other => other.to_string(),
    }
}

/// Returns a key as an error shows it: quoted unless it is a plain name.
fn shown(key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if plain && key.len() <= LONGEST { key.into() } else { format!("{:?}", shorten(key)) }
}

const LONGEST: usize = 60;

fn shorten(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        None => text.into(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}
