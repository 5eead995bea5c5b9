//! The kinds of tensors in a checkpoint, their names and their dtypes.

use lion_kernels::{Dtype, TensorRef};

use super::{Tensor, VariableState};

/// A kind of tensor that a variable has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Parameter,
    Momentum,
    Low,
    Ema,
    Accumulator,
}

/// Every kind.
pub(super) const SECTIONS: [Section; 5] =
    [Section::Parameter, Section::Momentum, Section::Low, Section::Ema, Section::Accumulator];

/// What the names of a momentum's scales begin with.
pub(super) const SCALE: &str = "momentum_scale/";

impl Section {
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Section::Parameter => "param/",
            Section::Momentum => "momentum/",
            Section::Low => "low/",
            Section::Ema => "ema/",
            Section::Accumulator => "accumulator/",
        }
    }

    pub(super) fn of<'v, 'a>(self, variable: &'v VariableState<'a>) -> &'v Option<Tensor<'a>> {
        match self {
            Section::Parameter => &variable.parameter,
            Section::Momentum => &variable.momentum,
            Section::Low => &variable.low,
            Section::Ema => &variable.ema,
            Section::Accumulator => &variable.accumulator,
        }
    }

    pub(super) fn of_mut<'v, 'a>(self, variable: &'v mut VariableState<'a>) -> &'v mut Option<Tensor<'a>> {
        match self {
            Section::Parameter => &mut variable.parameter,
            Section::Momentum => &mut variable.momentum,
            Section::Low => &mut variable.low,
            Section::Ema => &mut variable.ema,
            Section::Accumulator => &mut variable.accumulator,
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
        matches!(Part::of_name(name), Some((Part::Scale | Part::Section(Section::Low), _)))
    }
}

/// What a tensor of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A tensor of a variable, or its first stream.
    Section(Section),
    /// The second stream of an 8-bit momentum.
    Scale,
}

impl Part {
    /// What the tensor of that name is, and of which variable.
    pub(super) fn of_name(name: &str) -> Option<(Self, &str)> {
        let scale = name.strip_prefix(SCALE).map(|name| (Part::Scale, name));
        let section =
            |section: &Section| Some((Part::Section(*section), name.strip_prefix(section.prefix())?));
        scale.or_else(|| SECTIONS.iter().find_map(section))
    }

    /// All names that a tensor may have.
    pub(super) fn names() -> String {
        let sections = SECTIONS.iter().map(|section| format!("{}<name>", section.prefix()));
        let mut names: Vec<_> = sections.collect();
        names.push(format!("{SCALE}<name>"));
        names.join(", ")
    }

    /// # Errors
    /// What the dtype is, and what it must be.
    pub(super) fn check_dtype(self, found: Dtype) -> Result<(), String> {
        let allowed: &[Dtype] = match self {
            Part::Section(Section::Parameter) => &[Dtype::F32, Dtype::F16, Dtype::BF16],
            Part::Section(Section::Momentum) => &[Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I8],
            Part::Section(Section::Low) => &[Dtype::I16],
            Part::Section(Section::Ema | Section::Accumulator) | Part::Scale => &[Dtype::F32],
        };
        if allowed.contains(&found) {
            return Ok(());
        }
        let names: Vec<_> = allowed.iter().map(|dtype| dtype.name()).collect();
        let one_of = if allowed.len() > 1 { "one of " } else { "" };
        Err(format!("is {found}, and must be {one_of}{}", names.join(", ")))
    }
}
