//! Finds the optimizer's config inside the JSON of a model or a training.

use serde_json::Value;

use crate::Error;
use crate::json;

/// The keys under which Keras and its users keep an optimizer, or an object that contains one. An optimizer's own config
/// has none of these keys.
const HOLDERS: [&str; 4] = ["compile_config", "training_config", "optimizer_config", "optimizer"];

const NOT_COMPILED: &str = "a model holds one if it is saved after compile() and with include_optimizer=True";

/// The optimizer's config as Keras writes it, and its path.
#[derive(Debug)]
pub(super) struct FoundOptimizer {
    pub(super) value: Value,
    /// The keys that lead to it; empty if it is the whole text.
    pub(super) path: String,
    /// Notes for the user's log.
    pub(super) notes: Vec<String>,
    /// Whether the model around it has the policy `mixed_float16`, with which Keras scales the loss.
    pub(super) scales: bool,
}

/// Takes the optimizer's config out of `value`. Its keys are not checked here.
pub(super) fn optimizer(value: Value) -> Result<FoundOptimizer, Error> {
    let mut found = FoundOptimizer { value, path: String::new(), notes: Vec::new(), scales: false };
    loop {
        // JSON inside a JSON string, as in the attributes of an .h5 file.
        if let Value::String(text) = &found.value
            && text.trim_start().starts_with('{')
        {
            let parsed = json::parse(text);
            found.value = parsed.map_err(|error| match found.path.as_str() {
                "" => error,
                path => Error::Json { place: path.into(), reason: error.to_string() },
            })?;
        }
        let Value::Object(entries) = &mut found.value else { break };
        let Some(key) = HOLDERS.into_iter().find(|key| entries.contains_key(*key)) else { break };
        let inner = entries.remove(key).unwrap_or_default();
        if key == "compile_config" {
            found.look_at_policy();
        }
        found.path = if found.path.is_empty() { key.into() } else { format!("{}.{key}", found.path) };
        found.value = inner;
    }
    let empty = found.value.is_null() || found.value.as_object().is_some_and(serde_json::Map::is_empty);
    if empty && !found.path.is_empty() {
        return Err(Error::NoOptimizer { place: found.path, reason: NOT_COMPILED });
    }
    if is_model(&found.value) {
        let place = if found.path.is_empty() { "the model".into() } else { found.path };
        return Err(Error::NoOptimizer { place, reason: NOT_COMPILED });
    }
    if !found.path.is_empty() {
        if let Value::String(name) = &found.value {
            // compile(optimizer="lion")
            found.value = serde_json::json!({"class_name": name});
        }
        found.notes.insert(0, format!("the optimizer is that of {}", found.path));
    }
    Ok(found)
}

impl FoundOptimizer {
    /// Looks at the model's dtype policy. If it is `mixed_float16`, Keras wraps the optimizer in a `LossScaleOptimizer`
    /// when it compiles or loads the model, and writes the optimizer without the wrapper.
    fn look_at_policy(&mut self) {
        const MIXED: &str = "mixed_float16";
        let Some(config) = self.value.get("config") else { return };
        if policy(config) == Some(MIXED) {
            self.scales = true;
            return;
        }
        let mut layers = config.get("layers").and_then(Value::as_array).into_iter().flatten();
        if config.get("dtype").is_none()
            && layers.any(|layer| layer.get("config").and_then(policy) == Some(MIXED))
        {
            let note = "layers compute in mixed_float16, and the file does not say whether Keras put a \
                        LossScaleOptimizer around the optimizer: none is used";
            self.notes.push(note.into());
        }
    }
}

/// Returns the name of the dtype policy of a layer or a model.
fn policy(config: &Value) -> Option<&str> {
    let dtype = config.get("dtype")?;
    dtype.as_str().or_else(|| dtype.get("config")?.get("name")?.as_str())
}

/// Returns whether this is a model or its compile config, without an optimizer under any known key.
fn is_model(value: &Value) -> bool {
    let has = |value: &Value, key: &str| value.get(key).is_some();
    match has(value, "class_name") {
        true => has(value, "build_config") || value.get("config").is_some_and(|config| has(config, "layers")),
        false => has(value, "layers") || has(value, "loss") && has(value, "weighted_metrics"),
    }
}
