//! Imports momentum from optimizers of other frameworks, saved as safetensors.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use lion_kernels::Role;
use regex::Regex;

use crate::tensor_file::{TensorFile, TensorInfo};
use crate::{Error, TensorBuf};

/// Maps each variable to the tensor of another program's file that holds its momentum.
///
/// It is a list of patterns. A pattern contains one of `{name}` (the variable's name), `{under_name}` (with `_` instead of
/// every `/`) and `{dot_name}` (with `.` instead of every `/`). The file must have exactly one of the resulting names.
///
/// If it has none, these names are recognised too:
///
/// | made by | names | source |
/// |---|---|---|
/// | [`torch`](Self::torch) | `module.` and `_orig_mod.` before the parameter's name | `DistributedDataParallel` and `torch.compile` keep the model in attributes of these names |
/// | [`keras`](Self::keras) | `lion_1/net_dense_kernel_momentum` | `keras.src.backend.common.variables`: the path; a second optimizer of a name has a number |
/// | [`keras`](Self::keras) | `Lion/m/dense/kernel:0` | `tf.keras` 2.15, `Optimizer.add_variable_from_reference` |
/// | [`optax`](Self::optax) | `opt_state/1/0/mu/params/dense/kernel` | `optax.chain` is a tuple of states, `ScaleByLionState` has `mu`; `flax.serialization.to_state_dict` numbers tuples |
/// | [`optax`](Self::optax) | `inner_state/0/mu/…`, `inner_opt_state/0/mu/…` | `optax.inject_hyperparams`, `optax.MultiSteps` |
///
/// ```
/// use lion::checkpoint::MomentumMapping;
///
/// // A file of torch in which one layer has a different name.
/// let names = MomentumMapping::torch().rename("decoder.weight", "module.lm_head.weight");
/// let own = MomentumMapping::patterns(["opt/{name}/m"]);
/// # let _ = (names, own);
/// ```
#[derive(Clone, Debug)]
pub struct MomentumMapping {
    patterns: Vec<String>,
    /// Tried for a variable if the file has none of the patterns' names.
    elsewhere: Elsewhere,
    renamed: HashMap<String, String>,
}

/// Names that a program uses less often.
#[derive(Clone, Copy, Debug)]
struct Elsewhere {
    /// Rows: the start as a regular expression, and the rest as a pattern.
    rows: &'static [(&'static str, &'static str)],
    /// Added to the error if the file has no matching name.
    hint: &'static str,
}

const NOWHERE: Elsewhere = Elsewhere { rows: &[], hint: "" };

const TORCH: Elsewhere = Elsewhere {
    rows: &[
        (r"((module|_orig_mod)\.)+", "{dot_name}.exp_avg"),
        (r"exp_avg\.((module|_orig_mod)\.)+", "{dot_name}"),
        (r"state\.((module|_orig_mod)\.)+", "{dot_name}.exp_avg"),
    ],
    hint: ", also after module. and _orig_mod.",
};

const KERAS: Elsewhere = Elsewhere {
    rows: &[(r"(optimizer/)?lion_[0-9]+/", "{under_name}_momentum"), (r"[Ll]ion(_[0-9]+)?/m/", "{name}:0")],
    hint: ", also after lion_1/ and the like, and for Lion/m/<name>:0",
};

const OPTAX: Elsewhere = Elsewhere {
    rows: &[
        (r"(opt_state/)?((inner_state|inner_opt_state|[0-9]+)/)*mu/(params/)?", "{name}"),
        (r"(opt_state\.)?((inner_state|inner_opt_state|[0-9]+)\.)*mu\.(params\.)?", "{dot_name}"),
    ],
    hint: ", also at other places of a chain",
};

impl Elsewhere {
    /// Returns the patterns whose start occurs in the file.
    fn patterns(self, tensors: &[TensorInfo]) -> Vec<String> {
        let mut patterns = Vec::new();
        for (start, rest) in self.rows {
            let Ok(start) = Regex::new(&format!("^(?:{start})$")) else { continue };
            let starts: BTreeSet<&str> = tensors
                .iter()
                .flat_map(|tensor| {
                    let ends = tensor.name().match_indices(['/', '.']);
                    ends.filter_map(|(at, mark)| tensor.name().get(..at + mark.len()))
                })
                .filter(|found| start.is_match(found))
                .collect();
            patterns.extend(starts.iter().map(|start| format!("{start}{rest}")));
        }
        patterns
    }
}

impl MomentumMapping {
    /// Names of lion-pytorch and other torch optimizers that keep `exp_avg` per parameter: `<name>.exp_avg`,
    /// `exp_avg.<name>` and `state.<name>.exp_avg`, also with slashes.
    pub fn torch() -> Self {
        Self::patterns([
            "{dot_name}.exp_avg",
            "exp_avg.{dot_name}",
            "state.{dot_name}.exp_avg",
            "{name}/exp_avg",
            "exp_avg/{name}",
            "state/{name}/exp_avg",
        ])
        .elsewhere(TORCH)
    }

    /// Names of Keras: the momentum of `dense/kernel` is `dense_kernel_momentum`, under the name of the optimizer.
    pub fn keras() -> Self {
        Self::patterns([
            "{under_name}_momentum",
            "lion/{under_name}_momentum",
            "optimizer/{under_name}_momentum",
            "optimizer/lion/{under_name}_momentum",
            "{name}/momentum",
            "momentum/{name}",
        ])
        .elsewhere(KERAS)
    }

    /// Names of optax: `scale_by_lion` keeps `mu`, a tree with the parameters' names, flattened with slashes or dots. `0` is
    /// its index in the chain of `optax.lion`.
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
        .elsewhere(OPTAX)
    }

    /// Creates a mapping from the caller's patterns.
    pub fn patterns<T: Into<String>>(patterns: impl IntoIterator<Item = T>) -> Self {
        let patterns = patterns.into_iter().map(Into::into).collect();
        MomentumMapping { patterns, elsewhere: NOWHERE, renamed: HashMap::new() }
    }

    fn elsewhere(self, elsewhere: Elsewhere) -> Self {
        MomentumMapping { elsewhere, ..self }
    }

    /// Looks for the variable `here` under the name `there`.
    #[must_use]
    pub fn rename(mut self, here: impl Into<String>, there: impl Into<String>) -> Self {
        self.renamed.insert(here.into(), there.into());
        self
    }

    /// Returns the names that the patterns give for a variable, without duplicates.
    fn candidates(&self, variable: &str, patterns: &[String]) -> Vec<String> {
        let name = self.renamed.get(variable).map_or(variable, String::as_str);
        let (under, dot) = (name.replace('/', "_"), name.replace('/', "."));
        let mut candidates: Vec<String> = Vec::new();
        for pattern in patterns {
            // Only one mark is replaced, as the inserted name may contain another.
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

/// Reads the momentum of the `variables`, given by name and shape, from another program's file, in their order. Other
/// tensors of the file are ignored, whatever their dtype.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read. [`Error::File`] if it is not a safetensors file, or if a variable's momentum
/// is missing, has several names, is also another variable's, or has another shape.
pub fn import_momentum<'v>(
    path: impl AsRef<Path>,
    names: &MomentumMapping,
    variables: impl IntoIterator<Item = (&'v str, &'v [usize])>,
) -> Result<Vec<TensorBuf>, Error> {
    let file = TensorFile::open_lenient(path)?;
    let mut found = Vec::new();
    let mut taken = HashMap::new();
    let mut elsewhere = None;
    for (name, shape) in variables {
        let candidates = names.candidates(name, &names.patterns);
        let find = |candidate: &String| file.find(candidate).filter(|it| it.dtype().fits(Role::Gradient));
        let mut there: Vec<_> = candidates.iter().filter_map(find).collect();
        if there.is_empty() {
            let patterns = elsewhere.get_or_insert_with(|| names.elsewhere.patterns(file.tensors()));
            let others = names.candidates(name, patterns);
            there = others.iter().filter_map(find).collect();
        }
        let tensor = match there.as_slice() {
            [tensor] => *tensor,
            [] => {
                let (looked, hint) = (candidates.join(", "), names.elsewhere.hint);
                let reason = format!("no momentum in f32, f16 or bf16; looked for {looked}{hint}");
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
        if let Some(other) = taken.insert(tensor.name(), name) {
            let reason = format!("it is the momentum of both {other:?} and {name:?}; rename() says which");
            return Err(file.error(Some(tensor.name()), reason));
        }
        found.push(tensor);
    }
    found.into_iter().map(|tensor| file.read_values(tensor)).collect()
}
