//! The kinds of tensors in a checkpoint, their names and their dtypes.

use lion_kernels::{Dtype, TensorRef};

use super::{SavedVariable, Tensor};

/// A kind of tensor that a variable has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SavedRole {
    Parameter,
    Momentum,
    Low,
    Ema,
    Accumulator,
}

/// Every kind.
pub(super) const SAVED_ROLES: [SavedRole; 5] =
    [SavedRole::Parameter, SavedRole::Momentum, SavedRole::Low, SavedRole::Ema, SavedRole::Accumulator];

/// What the names of a momentum's scales begin with.
pub(super) const SCALE: &str = "momentum_scale/";

impl SavedRole {
    pub(super) fn prefix(self) -> &'static str {
        match self {
            SavedRole::Parameter => "param/",
            SavedRole::Momentum => "momentum/",
            SavedRole::Low => "low/",
            SavedRole::Ema => "ema/",
            SavedRole::Accumulator => "accumulator/",
        }
    }

    pub(super) fn of<'v, 'a>(self, variable: &'v SavedVariable<'a>) -> &'v Option<Tensor<'a>> {
        match self {
            SavedRole::Parameter => &variable.parameter,
            SavedRole::Momentum => &variable.momentum,
            SavedRole::Low => &variable.low,
            SavedRole::Ema => &variable.ema,
            SavedRole::Accumulator => &variable.accumulator,
        }
    }

    pub(super) fn of_mut<'v, 'a>(self, variable: &'v mut SavedVariable<'a>) -> &'v mut Option<Tensor<'a>> {
        match self {
            SavedRole::Parameter => &mut variable.parameter,
            SavedRole::Momentum => &mut variable.momentum,
            SavedRole::Low => &mut variable.low,
            SavedRole::Ema => &mut variable.ema,
            SavedRole::Accumulator => &mut variable.accumulator,
        }
    }

    /// The tensors of a file that a tensor is: one for each stream of its format.
    pub(super) fn entries<'t>(
        self,
        name: &str,
        shape: Vec<usize>,
        tensor: TensorRef<'t>,
    ) -> Vec<(String, Vec<usize>, TensorRef<'t>)> {
        let first = tensor.stream(0).map(|codes| (format!("{}{name}", self.prefix()), shape, codes));
        let second = tensor.stream(1).map(|scales| (format!("{SCALE}{name}"), vec![scales.len()], scales));
        first.into_iter().chain(second).collect()
    }

    /// Whether a tensor of that name is not in files of version 1.
    pub(super) fn is_of_version_2(name: &str) -> bool {
        matches!(Part::of_name(name), Some((Part::Scale | Part::SavedRole(SavedRole::Low), _)))
    }
}

/// What a tensor of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A tensor of a variable, or its first stream.
    SavedRole(SavedRole),
    /// The second stream of an 8-bit momentum.
    Scale,
}

impl Part {
    /// What the tensor of that name is, and of which variable.
    pub(super) fn of_name(name: &str) -> Option<(Self, &str)> {
        let scale = name.strip_prefix(SCALE).map(|name| (Part::Scale, name));
        let section =
            |section: &SavedRole| Some((Part::SavedRole(*section), name.strip_prefix(section.prefix())?));
        scale.or_else(|| SAVED_ROLES.iter().find_map(section))
    }

    /// All names that a tensor may have.
    pub(super) fn names() -> String {
        let sections = SAVED_ROLES.iter().map(|section| format!("{}<name>", section.prefix()));
        let mut names: Vec<_> = sections.collect();
        names.push(format!("{SCALE}<name>"));
        names.join(", ")
    }

    /// # Errors
    /// What the dtype is, and what it must be.
    pub(super) fn check_dtype(self, found: Dtype) -> Result<(), String> {
        let allowed: &[Dtype] = match self {
            Part::SavedRole(SavedRole::Parameter) => &[Dtype::F32, Dtype::F16, Dtype::BF16],
            Part::SavedRole(SavedRole::Momentum) => &[Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I8],
            Part::SavedRole(SavedRole::Low) => &[Dtype::I16],
            Part::SavedRole(SavedRole::Ema | SavedRole::Accumulator) | Part::Scale => &[Dtype::F32],
        };
        if allowed.contains(&found) {
            return Ok(());
        }
        let names: Vec<_> = allowed.iter().map(|dtype| dtype.name()).collect();
        let one_of = if allowed.len() > 1 { "one of " } else { "" };
        Err(format!("is {found}, and must be {one_of}{}", names.join(", ")))
    }
}
