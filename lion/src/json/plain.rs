//! Unwraps numbers and lists that Keras wraps because they are tensors, numpy arrays or tuples.
//!
//! `{"class_name": "__tensor__", "config": {"value": 0.1, "dtype": "float32"}}` is the number 0.1 as an f32, and so with
//! `__numpy__`. `{"class_name": "__tuple__", "items": [1, 2]}` is a list.

use half::{bf16, f16};
use serde_json::Value;

use super::{ObjectReader, wrong};
use crate::Error;

/// A function that rounds to a dtype.
type Round = fn(f64) -> f64;

/// Rows: a dtype of the wrappers, and its rounding.
const FLOATS: [(&str, Round); 4] = [
    ("float64", |value| value),
    ("float32", |value| f64::from(value as f32)),
    ("float16", |value| f16::from_f64(value).to_f64()),
    ("bfloat16", |value| bf16::from_f64(value).to_f64()),
];
const INTEGERS: [&str; 8] = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"];

/// Returns the number or list within a wrapper, and any other value as it is. `key` is the value's, for errors.
pub(super) fn unwrap(key: &str, value: Value) -> Result<Value, Error> {
    match value {
        Value::Array(elements) => {
            let element = |(index, value)| match value {
                Value::Array(_) | Value::Object(_) => unwrap(&format!("{key}[{index}]"), value),
                plain => Ok(plain),
            };
            elements.into_iter().enumerate().map(element).collect()
        }
        Value::Object(mut entries) => match entries.get("class_name").and_then(Value::as_str) {
            Some("__tensor__" | "__numpy__") => {
                let config = entries.remove("config").unwrap_or_default();
                array(config).map_err(|error| error.under("config").under(key))
            }
            Some("__tuple__") => unwrap(key, entries.remove("items").unwrap_or_default()),
            _ => Ok(Value::Object(entries)),
        },
        other => Ok(other),
    }
}

fn array(config: Value) -> Result<Value, Error> {
    let mut fields = ObjectReader::new(config)?;
    let value = fields.required_value("value", "a number or a list")?;
    let dtype: String = fields.required("dtype")?;
    fields.finish()?;
    let float = FLOATS.iter().find(|(name, _)| *name == dtype).map(|(_, round)| *round);
    if float.is_none() && dtype != "bool" && !INTEGERS.contains(&dtype.as_str()) {
        return Err(wrong(
            "dtype",
            &dtype.into(),
            "float16, bfloat16, float32, float64, bool or an integer type",
        ));
    }
    elements("value", value, &|value| match (float, &value) {
        (Some(round), Value::Number(number)) => number.as_f64().map(|number| Value::from(round(number))),
        (None, Value::Bool(_)) if dtype == "bool" => Some(value),
        (None, Value::Number(number)) if dtype != "bool" => {
            (number.is_i64() || number.is_u64()).then_some(value)
        }
        _ => None,
    })
}

/// Converts each element of a list of any depth.
fn elements(key: &str, value: Value, convert: &dyn Fn(Value) -> Option<Value>) -> Result<Value, Error> {
    match value {
        Value::Array(list) => {
            // A list may be long, so only an error builds the name of its element.
            let element = |(index, value): (usize, Value)| match value {
                Value::Array(_) => elements(&format!("{key}[{index}]"), value, convert),
                value => convert(value.clone())
                    .ok_or_else(|| wrong(&format!("{key}[{index}]"), &value, "a number of its dtype")),
            };
            list.into_iter().enumerate().map(element).collect()
        }
        value => convert(value.clone()).ok_or_else(|| wrong(key, &value, "a number of its dtype")),
    }
}
