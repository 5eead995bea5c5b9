//! The statistics of a step's gradients, collected before the step: the norm, and a count of non-finite elements.
//!
//! The result of a sum depends on its order, so the order is fixed. Each variable's elements are cut into blocks of
//! [`STATISTICS_BLOCK`]. The kernels sum a block, and the blocks are added in their order, variable by variable. So every thread and
//! machine gets the same bits, in whatever order the blocks were computed.

use std::ops::Range;

use lion_kernels::{GradientStatistics, STATISTICS_BLOCK, TensorRef};

use crate::clip::{ClipMode, GradientSummary};
use crate::variable::Variable;
use crate::{Error, VariableId};

/// The statistics of the gradients of one step, by block. [`Lion::statistics`](crate::Lion::statistics) creates them empty,
/// [`Lion::measure`](crate::Lion::measure) fills them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// The number of the step that they are for.
    pub(crate) step: u64,
    /// The index of each variable's first block, and the number of blocks.
    pub(crate) first_blocks: Vec<usize>,
    pub(crate) blocks: Vec<GradientStatistics>,
    /// Whether each block has been measured; the others have no gradient.
    pub(crate) measured: Vec<bool>,
}

impl Statistics {
    /// Returns the statistics of the variable's blocks. Each has 4,096 elements; the last may be shorter. A block without a
    /// gradient is zero. `None` if the variable does not exist.
    pub fn blocks(&self, variable: VariableId) -> Option<&[GradientStatistics]> {
        self.blocks.get(self.blocks_of(variable)?)
    }

    /// Whether each of the variable's blocks has been measured. `None` if the variable does not exist.
    pub fn measured(&self, variable: VariableId) -> Option<&[bool]> {
        self.measured.get(self.blocks_of(variable)?)
    }

    /// Adds blocks that were measured elsewhere, from block `first` of the variable on.
    ///
    /// # Errors
    /// An unknown variable, blocks beyond its last, or a block that has been measured already. Nothing is added then.
    pub fn set_blocks(
        &mut self,
        variable: VariableId,
        first: usize,
        blocks: &[GradientStatistics],
    ) -> Result<(), Error> {
        let registered = self.first_blocks.len().saturating_sub(1);
        let all = self.blocks_of(variable).ok_or(Error::UnknownVariable { index: variable.0, registered })?;
        let end = first.saturating_add(blocks.len());
        if end > all.len() {
            return Err(Error::Statistics {
                what: format!("blocks {first}..{end} of variable id {}", variable.0),
                allowed: format!("within its {} blocks", all.len()),
            });
        }
        let places = all.start + first..all.start + end;
        if self.measured[places.clone()].contains(&true) {
            return Err(Error::Statistics {
                what: format!(
                    "blocks {first}..{end} of variable id {}, some of them measured before",
                    variable.0
                ),
                allowed: "given once in a step".into(),
            });
        }
        self.blocks[places.clone()].copy_from_slice(blocks);
        self.measured[places].fill(true);
        Ok(())
    }

    /// Adds all blocks that `other` has measured for the same step.
    ///
    /// # Errors
    /// Statistics of another step or of another number of blocks, or a block that both have. Nothing is added then.
    pub fn merge(&mut self, other: &Statistics) -> Result<(), Error> {
        if (self.step, &self.first_blocks) != (other.step, &other.first_blocks) {
            return Err(Error::Statistics {
                what: format!("for step {} and {} blocks", other.step, other.blocks.len()),
                allowed: format!("for step {} and {} blocks", self.step, self.blocks.len()),
            });
        }
        if let Some(twice) = (0..self.measured.len()).find(|&at| self.measured[at] && other.measured[at]) {
            return Err(Error::Statistics {
                what: format!("block {twice} of {}, measured before", self.blocks.len()),
                allowed: "given once in a step".into(),
            });
        }
        for at in (0..other.measured.len()).filter(|&at| other.measured[at]) {
            self.blocks[at] = other.blocks[at];
            self.measured[at] = true;
        }
        Ok(())
    }

    fn blocks_of(&self, variable: VariableId) -> Option<Range<usize>> {
        let end = variable.0.checked_add(1)?;
        Some(*self.first_blocks.get(variable.0)?..*self.first_blocks.get(end)?)
    }

    /// Clears all blocks, for step number `step`.
    pub(crate) fn reset(&mut self, step: u64, variables: &[Variable]) -> Result<(), Error> {
        self.step = step;
        // Variables are only ever added.
        if self.first_blocks.len() == variables.len() + 1 {
            self.blocks.fill(GradientStatistics::default());
            self.measured.fill(false);
            return Ok(());
        }
        let before = self.blocks.len();
        self.first_blocks.clear();
        let mut total = 0_usize;
        self.first_blocks.push(0);
        for variable in variables {
            // A sum that is too large fails in `try_reserve`.
            total = total.saturating_add(variable.len.div_ceil(STATISTICS_BLOCK));
            self.first_blocks.push(total);
        }
        let no_memory = |_| Error::OutOfMemory { what: "statistics", elements: total };
        self.blocks.try_reserve(total.saturating_sub(before)).map_err(no_memory)?;
        self.measured.try_reserve(total.saturating_sub(before)).map_err(no_memory)?;
        self.blocks.clear();
        self.blocks.resize(total, GradientStatistics::default());
        self.measured.clear();
        self.measured.resize(total, false);
        Ok(())
    }

    /// Returns the indices of the blocks that a range of a variable's elements touches.
    pub(crate) fn places(&self, variable: VariableId, range: &Range<usize>) -> Range<usize> {
        let first = self.first_blocks[variable.0];
        first + range.start / STATISTICS_BLOCK..first + range.end.div_ceil(STATISTICS_BLOCK)
    }

    /// Returns the elements of the first measured block in a range.
    pub(crate) fn first_measured(
        &self,
        variable: VariableId,
        range: &Range<usize>,
        len: usize,
    ) -> Option<Range<usize>> {
        let places = self.places(variable, range);
        let block =
            range.start / STATISTICS_BLOCK + self.measured[places].iter().position(|&measured| measured)?;
        Some(block * STATISTICS_BLOCK..len.min((block + 1) * STATISTICS_BLOCK))
    }

    /// Merges the blocks, in the order of registration: into `each` for each variable, and into the summary of all. A
    /// gradient that overwrites its variable counts for a dynamic loss scale only.
    pub(crate) fn summarize(
        &self,
        mode: ClipMode,
        dynamic: bool,
        variables: &[Variable],
        each: &mut Vec<GradientStatistics>,
    ) -> GradientSummary {
        let mut summary = GradientSummary::before(mode);
        each.clear();
        for (index, variable) in variables.iter().enumerate() {
            let whole = GradientStatistics::from_blocks(
                &self.blocks[self.first_blocks[index]..self.first_blocks[index + 1]],
            );
            match variable.overwritten {
                true if dynamic => summary.non_finite += whole.non_finite,
                true => {}
                false => summary.add(mode, &whole),
            }
            each.push(whole);
        }
        summary.finish(mode);
        summary
    }
}

/// A gradient, or a part of one, for [`Lion::measure`](crate::Lion::measure).
#[derive(Clone, Debug)]
#[must_use]
pub struct Gradient<'a> {
    pub(crate) variable: VariableId,
    pub(crate) range: Option<Range<usize>>,
    pub(crate) values: TensorRef<'a>,
}

impl<'a> Gradient<'a> {
    /// Wraps a variable's whole gradient.
    pub fn new(variable: VariableId, values: impl Into<TensorRef<'a>>) -> Self {
        Gradient { variable, range: None, values: values.into() }
    }

    /// Declares that the values are a range of the variable's elements, in row-major order. The range begins and ends at a
    /// multiple of 4,096 elements or at the variable's end.
    pub fn range(self, range: Range<usize>) -> Self {
        Gradient { range: Some(range), ..self }
    }
}
