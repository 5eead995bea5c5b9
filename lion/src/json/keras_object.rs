use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::{ObjectReader, excerpt, wrong};
use crate::Error;
use crate::options::Setting;

/// An object as `keras.saving.serialize_keras_object` writes it: a class, and the config of an instance.
#[derive(Debug)]
pub(crate) struct KerasObject {
    pub(crate) class: String,
    /// Keras writes null for the module of the program itself.
    module: Option<Value>,
    registered_name: Option<String>,
    pub(crate) config: Value,
}

/// The names of Keras's package: version 3, version 2 beside it, version 3 before its release, and version 2 within
/// TensorFlow.
const KERAS: [&str; 5] = ["keras", "tf_keras", "keras_core", "tensorflow.keras", "tensorflow.python.keras"];

/// The prefix of classes that are registered without a package. Keras 2 registered its own optimizers so.
const UNNAMED: &str = "Custom>";

impl KerasObject {
    pub(crate) fn write(module: &str, class: &str, config: Map<String, Value>) -> Value {
        json!({"module": module, "class_name": class, "config": config, "registered_name": null})
    }

    pub(crate) fn read(value: Value) -> Result<Self, Error> {
        let mut fields = ObjectReader::new(value)?;
        let class: String = fields.required("class_name")?;
        let module = fields.value("module");
        if let Some(module @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) =
            &module
        {
            return Err(wrong("module", module, String::what()));
        }
        // Keras reads an instance without a config as one with all defaults.
        let config = fields.value("config").filter(|config| !config.is_null());
        let config = config.unwrap_or_else(|| Map::new().into());
        let registered_name = fields.option("registered_name")?;
        // Keras numbers objects that occur more than once in a file.
        fields.value("shared_object_id");
        fields.finish()?;
        Ok(KerasObject { class, module, registered_name, config })
    }

    /// Returns the name of the class without the prefix that Keras 2 gave its own optimizers.
    pub(crate) fn plain_class(&self) -> &str {
        self.class.strip_prefix(UNNAMED).unwrap_or(&self.class)
    }

    /// Refuses classes and functions of other programs. Call it before reading the config, whose keys are theirs.
    pub(crate) fn check_origin(&self, allowed: impl Into<Cow<'static, str>>) -> Result<(), Error> {
        match self.foreign() {
            Some(found) => Err(Error::Custom { name: String::new(), found, allowed: allowed.into() }),
            None => Ok(()),
        }
    }

    /// Describes the object if it belongs neither to Keras nor to this crate.
    fn foreign(&self) -> Option<String> {
        let quoted = |text: &str| excerpt(&text.into());
        match self.class.as_str() {
            "__lambda__" => return Some("a lambda".into()),
            "function" => {
                let name = self.config.as_str().or(self.registered_name.as_deref()).unwrap_or_default();
                return Some(format!("the function {}", quoted(name)));
            }
            _ => {}
        }
        let name = self.registered_name.as_deref().filter(|name| name.contains('>')).unwrap_or(&self.class);
        let class = format!("the class {}", quoted(name));
        match &self.module {
            Some(Value::String(module)) if !is_keras(module) && module != super::LION_MODULE => {
                return Some(format!("{class} of the module {}", quoted(module)));
            }
            Some(Value::Null) => return Some(class),
            _ => {}
        }
        let registered = self.registered_name.as_deref().unwrap_or_default();
        let registered = registered.strip_prefix(UNNAMED).unwrap_or(registered);
        let same = registered.is_empty() || registered.eq_ignore_ascii_case(self.plain_class());
        (!same || self.plain_class().contains('>')).then_some(class)
    }

    /// Checks the module. Keras's classes have had several, so any of Keras's packages is accepted for them.
    pub(crate) fn check_module(&self, expected: &str) -> Result<(), Error> {
        match &self.module {
            None => Ok(()),
            Some(Value::String(found)) if found == expected || is_keras(found) && is_keras(expected) => {
                Ok(())
            }
            Some(found) => Err(Error::argument("module", excerpt(found), format!("{expected:?}"))),
        }
    }

    pub(crate) fn unknown_class(&self, allowed: String) -> Error {
        Error::argument("class_name", excerpt(&self.class.as_str().into()), allowed)
    }
}

fn is_keras(module: &str) -> bool {
    KERAS.iter().any(|package| {
        module.strip_prefix(package).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}
