//! Constraints from Keras's JSON.

use serde_json::Value;

use super::{Axes, Constraint};
use crate::Error;
use crate::json::{self, KerasObject, ObjectReader, wrong};

const KERAS: &str = "keras.constraints";

/// What can stand in place of a custom constraint.
const ALLOWED: &str = "NonNeg, MaxNorm, UnitNorm or MinMaxNorm";

impl Constraint {
    /// Reads what `keras.constraints.serialize` writes: `NonNeg`, `MaxNorm`, `UnitNorm` or `MinMaxNorm`. A key that is
    /// left out has Keras's default; an `axis` of null is one norm over all elements.
    ///
    /// ```
    /// use lion::Constraint;
    ///
    /// let constraint = Constraint::from_json(r#"{"class_name": "MaxNorm", "config": {"max_value": 1, "axis": null}}"#)?;
    /// let mut values = [3.0, 4.0];
    /// constraint.apply(&[2], &mut values)?;
    /// assert_eq!(values.map(|value| (value * 10.0).round()), [6.0, 8.0]);
    ///
    /// let error = Constraint::from_json(r#"{"class_name": "MaxNorm", "config": {"max_value": -1}}"#).unwrap_err();
    /// assert_eq!(error.to_string(), "config.max_value is -1, and must be in [0, inf)");
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// Text that is not such an object, a class that is not Keras's, and the errors of the constructors.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        Self::read(json::parse(text)?).map_err(|error| error.named("the constraint"))
    }

    fn read(value: Value) -> Result<Self, Error> {
        let mut wrapped = KerasObject::read(value)?;
        wrapped.check_origin(ALLOWED)?;
        let within = |error: Error| error.under("config");
        let mut config = ObjectReader::new(wrapped.config.take()).map_err(within)?;
        let Some(constraint) = Self::read_config(&wrapped.class, &mut config).map_err(within)? else {
            return Err(wrapped.unknown_class(format!("one of {ALLOWED}")));
        };
        wrapped.check_module(KERAS)?;
        config.finish().map_err(within)?;
        Ok(constraint)
    }

    /// Returns `None` for a class that Keras lacks.
    fn read_config(class: &str, config: &mut ObjectReader) -> Result<Option<Self>, Error> {
        match class {
            "NonNeg" => Ok(Self::non_negative()),
            "MaxNorm" => Self::max_norm(config.or("max_value", 2.0)?, axes(config)?),
            "UnitNorm" => Ok(Self::unit_norm(axes(config)?)),
            "MinMaxNorm" => {
                let (min, max) = (config.or("min_value", 0.0)?, config.or("max_value", 1.0)?);
                Self::min_max_norm(min, max, config.or("rate", 1.0)?, axes(config)?)
            }
            _ => return Ok(None),
        }
        .map(Some)
    }
}

fn axes(config: &mut ObjectReader) -> Result<Axes, Error> {
    const KEY: &str = "axis";
    let axis = |value: &Value| value.as_i64().and_then(|axis| isize::try_from(axis).ok());
    let found = match config.value(KEY) {
        None => return Ok(0.into()),
        Some(Value::Null) => return Ok(Axes::All),
        Some(found) => found,
    };
    let axes = match &found {
        Value::Array(list) => list.iter().map(axis).collect(),
        one => axis(one).map(|axis| vec![axis]),
    };
    axes.map(Axes::Of).ok_or_else(|| wrong(KEY, &found, "an axis, a list of axes or null"))
}
