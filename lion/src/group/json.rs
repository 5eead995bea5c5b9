//! Groups from JSON.

use super::Group;
use crate::json::{self, ObjectReader, wrong};
use crate::options::{Setting, Value};
use crate::{Error, Hyperparameter};

impl Group {
    /// Reads a JSON object with the hyperparameters in which the group differs: `learning_rate_multiplier`, `beta_1`,
    /// `beta_2`, `weight_decay` (null for off), `cautious_decay` and `decay_scale`. The values are as in
    /// [`Config::set_json`](crate::Config::set_json): `beta_1`, `beta_2` and `weight_decay` may be schedules.
    ///
    /// ```
    /// use lion::Group;
    ///
    /// let group = Group::from_json(r#"{"learning_rate_multiplier": 0.1, "weight_decay": null}"#)?;
    /// assert_eq!(group, Group::new().learning_rate_multiplier(0.1).no_weight_decay());
    ///
    /// let error = Group::from_json(r#"{"beta_1": 2}"#).unwrap_err();
    /// assert_eq!(error.to_string(), "beta_1 is 2, and must be in (0, 1]");
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// Text that is not such an object, a value of another type or outside its range.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let mut fields = ObjectReader::new(json::object(text)?.into())?;
        let mut group = Group::new();
        if let Some(multiplier) = read(&mut fields, "learning_rate_multiplier")? {
            group = group.learning_rate_multiplier(multiplier);
        }
        if let Some(beta_1) = read::<Hyperparameter>(&mut fields, "beta_1")? {
            group = group.beta_1(beta_1);
        }
        if let Some(beta_2) = read::<Hyperparameter>(&mut fields, "beta_2")? {
            group = group.beta_2(beta_2);
        }
        if let Some(weight_decay) = read::<Option<Hyperparameter>>(&mut fields, "weight_decay")? {
            group = match weight_decay {
                Some(weight_decay) => group.weight_decay(weight_decay),
                None => group.no_weight_decay(),
            };
        }
        if let Some(cautious) = read(&mut fields, "cautious_decay")? {
            group = group.cautious_decay(cautious);
        }
        if let Some(scale) = read(&mut fields, "decay_scale")? {
            group = group.decay_scale(scale);
        }
        fields.finish()?;
        group.validate()?;
        Ok(group)
    }
}

/// Reads the value under `key`, if the key is given.
fn read<T: Setting>(fields: &mut ObjectReader, key: &'static str) -> Result<Option<T>, Error> {
    let Some(json) = fields.value(key) else { return Ok(None) };
    let value = Value::read(json.clone()).map_err(|error| error.under(key))?;
    T::of(&value).map(Some).ok_or_else(|| wrong(key, &json, T::what()))
}
