//! Momentum from elsewhere: optimizers of other frameworks, saved as safetensors.

use std::collections::HashMap;
use std::path::Path;

use crate::tensor_file::TensorFile;
use crate::{Error, Values};

/// Which tensor of a foreign file is the momentum of which variable: patterns, in which `{name}` stands for the
/// variable's name, `{under_name}` for it with `_` in place of every `/`, and `{dot_name}` with `.` in place of
/// every `/`, once in each pattern. The file must have exactly one of the names that they give.
///
/// ```
/// use lion::state::MomentumNames;
///
/// // A file of torch in which one layer has another name than here.
/// let names = MomentumNames::torch().rename("decoder.weight", "module.lm_head.weight");
/// let own = MomentumNames::patterns(["opt/{name}/m"]);
/// # let _ = (names, own);
/// ```
#[derive(Clone, Debug)]
pub struct MomentumNames {
    patterns: Vec<String>,
    renamed: HashMap<String, String>,
}

impl MomentumNames {
    /// lion-pytorch and what else of torch keeps `exp_avg` for each parameter: `<name>.exp_avg`, `exp_avg.<name>` and
    /// `state.<name>.exp_avg`, also with slashes between.
    pub fn torch() -> Self {
        Self::patterns([
            "{dot_name}.exp_avg",
            "exp_avg.{dot_name}",
            "state.{dot_name}.exp_avg",
            "{name}/exp_avg",
            "exp_avg/{name}",
            "state/{name}/exp_avg",
        ])
    }

    /// Keras, which calls the momentum of `dense/kernel` `dense_kernel_momentum`, under the name of the optimizer.
    pub fn keras() -> Self {
        Self::patterns([
            "{under_name}_momentum",
            "lion/{under_name}_momentum",
            "optimizer/{under_name}_momentum",
            "optimizer/lion/{under_name}_momentum",
            "{name}/momentum",
            "momentum/{name}",
        ])
    }

    /// optax, whose `scale_by_lion` keeps `mu`, as a tree with the parameters' own names, flattened with slashes or
    /// dots; `0` is its place in the chain that `optax.lion` is.
    pub fn optax() -> Self {
        Self::patterns([
            "mu/{name}",
            "mu.{dot_name}",
            "0/mu/{name}",
            "0.mu.{dot_name}",
            "opt_state/mu/{name}",
            "opt_state.mu.{dot_name}",
            "opt_state/0/mu/{name}",
            "opt_state.0.mu.{dot_name}",
        ])
    }

    /// Patterns of one's own.
    pub fn patterns<T: Into<String>>(patterns: impl IntoIterator<Item = T>) -> Self {
        MomentumNames { patterns: patterns.into_iter().map(Into::into).collect(), renamed: HashMap::new() }
    }

    /// Looks for the variable `here` under the name `there`.
    #[must_use]
    pub fn rename(mut self, here: impl Into<String>, there: impl Into<String>) -> Self {
        self.renamed.insert(here.into(), there.into());
        self
    }

    /// The names under which a variable's momentum may be, each once.
    fn candidates(&self, variable: &str) -> Vec<String> {
        let name = self.renamed.get(variable).map_or(variable, String::as_str);
        let (under, dot) = (name.replace('/', "_"), name.replace('/', "."));
        let mut candidates: Vec<String> = Vec::new();
        for pattern in &self.patterns {
            // One after the other would look for patterns in the name itself.
            let candidate = ["{name}", "{under_name}", "{dot_name}"]
                .iter()
                .zip([name, &under, &dot])
                .find_map(|(mark, text)| {
                    Some(pattern.split_once(mark)?).map(|(a, b)| format!("{a}{text}{b}"))
                })
                .unwrap_or_else(|| pattern.clone());
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        candidates
    }
}

/// Reads the momentum of each of the `variables`, given by name and shape, from another program's file; in their order.
/// Tensors of the file that are nobody's momentum, of whatever format, are left alone.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read; [`Error::File`] where it is no safetensors file, or a variable's momentum
/// is not there, is there under several names, or has another shape.
pub fn import_momentum<'v>(
    path: impl AsRef<Path>,
    names: &MomentumNames,
    variables: impl IntoIterator<Item = (&'v str, &'v [usize])>,
) -> Result<Vec<Values>, Error> {
    let file = TensorFile::open_foreign(path)?;
    let mut found = Vec::new();
    for (name, shape) in variables {
        let candidates = names.candidates(name);
        let there: Vec<_> = candidates.iter().filter_map(|candidate| file.find(candidate)).collect();
        let tensor = match there.as_slice() {
            [tensor] => *tensor,
            [] => {
                let reason = format!("no momentum in f32, f16 or bf16; looked for {}", candidates.join(", "));
                return Err(file.error(Some(name), reason));
            }
            [first, second, ..] => {
                let reason = format!("its momentum may be {} or {}", first.name(), second.name());
                return Err(file.error(Some(name), reason));
            }
        };
        if tensor.shape() != shape {
            let reason =
                format!("has the shape {:?}, and the variable {name:?} has {shape:?}", tensor.shape());
            return Err(file.error(Some(tensor.name()), reason));
        }
        found.push(tensor);
    }
    found.into_iter().map(|tensor| file.read_values(tensor)).collect()
}
