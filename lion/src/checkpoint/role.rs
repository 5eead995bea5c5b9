//! The roles of tensors in a checkpoint, with their names and dtypes.

use lion_kernels::{Dtype, TensorRef};

use super::{SavedVariable, Tensor};

/// The role of a variable's tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SavedRole {
    Parameter,
    Momentum,
    Low,
    Ema,
    Accumulator,
}

/// Every role.
pub(super) const SAVED_ROLES: [SavedRole; 5] =
    [SavedRole::Parameter, SavedRole::Momentum, SavedRole::Low, SavedRole::Ema, SavedRole::Accumulator];

/// The prefix of the names of a momentum's scales.
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

    /// Returns the file's tensors for a tensor: one for each stream of its dtype.
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

    /// Returns whether a tensor of that name needs version 2 of the format.
    pub(super) fn is_of_version_2(name: &str) -> bool {
        matches!(Part::of_name(name), Some((Part::Scale | Part::SavedRole(SavedRole::Low), _)))
    }
}

/// The meaning of a tensor in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A tensor of a variable, or its first stream.
    SavedRole(SavedRole),
    /// The second stream of an 8-bit momentum.
    Scale,
}

impl Part {
    /// Parses a tensor's name into its meaning and the variable's name.
    pub(super) fn of_name(name: &str) -> Option<(Self, &str)> {
        let scale = name.strip_prefix(SCALE).map(|name| (Part::Scale, name));
        let section =
            |section: &SavedRole| Some((Part::SavedRole(*section), name.strip_prefix(section.prefix())?));
        scale.or_else(|| SAVED_ROLES.iter().find_map(section))
    }

    /// Lists the forms of all names.
    pub(super) fn names() -> String {
        let sections = SAVED_ROLES.iter().map(|section| format!("{}<name>", section.prefix()));
        let mut names: Vec<_> = sections.collect();
        names.push(format!("{SCALE}<name>"));
        names.join(", ")
    }

    /// Checks the dtype.
    ///
    /// # Errors
    /// The dtype found and those allowed.
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
