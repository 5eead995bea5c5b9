use serde_json::{Map, Value, json};

use super::{Fields, FromJson, excerpt, wrong};
use crate::Error;

/// An object as `keras.saving.serialize_keras_object` writes it: a class, and the config of an instance.
#[derive(Debug)]
pub(crate) struct Wrapped {
    pub(crate) class: String,
    module: Option<String>,
    pub(crate) config: Value,
}

impl Wrapped {
    pub(crate) fn write(module: &str, class: &str, config: Map<String, Value>) -> Value {
        json!({"module": module, "class_name": class, "config": config, "registered_name": null})
    }

    pub(crate) fn read(value: Value) -> Result<Self, Error> {
        let mut fields = Fields::new(value)?;
        let class: String = fields.required("class_name")?;
        // It may be left out, but a null is how Keras says that it is lost.
        let module = fields.value("module").map(String::from_json).transpose();
        let module = module.map_err(|value| wrong("module", &value, String::WHAT))?;
        // Keras reads an instance without a config as one with every argument at its default.
        let config = fields.value("config").filter(|config| !config.is_null());
        let config = config.unwrap_or_else(|| Map::new().into());
        if let Some(name) = fields.option::<String>("registered_name")?
            && !name.eq_ignore_ascii_case(&class)
        {
            return Err(wrong("registered_name", &name.into(), "null, as for the classes of Keras"));
        }
        // A number that Keras gives objects which a file holds several times.
        fields.option::<Value>("shared_object_id")?;
        fields.finish()?;
        Ok(Wrapped { class, module, config })
    }

    /// Keras's own classes have had several modules within `keras`.
    pub(crate) fn check_module(&self, expected: &str) -> Result<(), Error> {
        match &self.module {
            None => Ok(()),
            Some(found) if found == expected => Ok(()),
            Some(found) if found.starts_with("keras.") && expected.starts_with("keras.") => Ok(()),
            Some(found) => {
                let found = excerpt(&found.as_str().into());
                Err(Error::argument("module", found, format!("{expected:?}")))
            }
        }
    }

    pub(crate) fn unknown_class(&self, allowed: String) -> Error {
        Error::argument("class_name", excerpt(&self.class.as_str().into()), allowed)
    }
}
