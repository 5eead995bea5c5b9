//! The statistics of a step's gradients, collected before the step from wherever the gradients are.
//!
//! A sum of squares depends on its order, so the order is fixed: each variable's elements are cut into blocks of
//! [`BLOCK`], a block is summed as the kernels do it, and the blocks are added in their order, variable after variable.
//! Whoever measures a block, on whatever thread or machine, gets the same bits; and what is handed in here is added in
//! the same order, whatever order it came in.

use std::ops::Range;

use lion_kernels::{BLOCK, GradientStatistics, TensorRef};

use crate::clip::{Clipping, Found};
use crate::variable::Variable;
use crate::{Error, VariableId};

/// The statistics of the gradients of one step, block by block: [`Lion::statistics`](crate::Lion::statistics) makes an
/// empty one, [`Lion::measure`](crate::Lion::measure) fills it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// The number of the call that they are for.
    pub(crate) call: u64,
    /// The first block of each variable, and the end of the last.
    pub(crate) first_blocks: Vec<usize>,
    pub(crate) blocks: Vec<GradientStatistics>,
    /// Which blocks have been measured; the others have no gradient.
    pub(crate) measured: Vec<bool>,
}

impl Statistics {
    /// The statistics of each of the variable's blocks, of 4,096 elements; the last may be shorter. A block without a
    /// gradient is zero. `None` where there is no such variable.
    pub fn blocks(&self, variable: VariableId) -> Option<&[GradientStatistics]> {
        self.blocks.get(self.blocks_of(variable)?)
    }

    /// Whether each of the variable's blocks has been measured. `None` if the variable does not exist.
    pub fn measured(&self, variable: VariableId) -> Option<&[bool]> {
        self.measured.get(self.blocks_of(variable)?)
    }

    /// Takes over blocks that were measured elsewhere, from block `first` of the variable on.
    ///
    /// # Errors
    /// A variable that is not there, blocks beyond its last, and a block that has been measured already. Nothing is taken
    /// over then.
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
                what: format!("blocks {first}..{end} of variable number {}", variable.0),
                allowed: format!("within its {} blocks", all.len()),
            });
        }
        let places = all.start + first..all.start + end;
        if self.measured[places.clone()].contains(&true) {
            return Err(Error::Statistics {
                what: format!(
                    "blocks {first}..{end} of variable number {}, some of them measured before",
                    variable.0
                ),
                allowed: "given once in a step".into(),
            });
        }
        self.blocks[places.clone()].copy_from_slice(blocks);
        self.measured[places].fill(true);
        Ok(())
    }

    /// Takes over all that another one has measured, of the same step.
    ///
    /// # Errors
    /// Another call's, or another optimizer's number of blocks; a block that both have. Nothing is taken over then.
    pub fn merge(&mut self, other: &Statistics) -> Result<(), Error> {
        if (self.call, &self.first_blocks) != (other.call, &other.first_blocks) {
            return Err(Error::Statistics {
                what: format!("for call {} and {} blocks", other.call, other.blocks.len()),
                allowed: format!("for call {} and {} blocks", self.call, self.blocks.len()),
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

    /// Begins anew, for call number `call`.
    pub(crate) fn reset(&mut self, call: u64, variables: &[Variable]) -> Result<(), Error> {
        self.call = call;
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
            // No more than elements that memory can hold.
            total += variable.len.div_ceil(BLOCK);
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

    /// The places of the blocks of a range of a variable's elements.
    pub(crate) fn places(&self, variable: VariableId, range: &Range<usize>) -> Range<usize> {
        let first = self.first_blocks[variable.0];
        first + range.start / BLOCK..first + range.end.div_ceil(BLOCK)
    }

    /// The elements of the first block of a range that has been measured.
    pub(crate) fn first_measured(
        &self,
        variable: VariableId,
        range: &Range<usize>,
        len: usize,
    ) -> Option<Range<usize>> {
        let places = self.places(variable, range);
        let block = range.start / BLOCK + self.measured[places].iter().position(|&measured| measured)?;
        Some(block * BLOCK..len.min((block + 1) * BLOCK))
    }

    /// What is known of all gradients, and of each variable's, in the order of registration. A gradient that overwrites its
    /// variable counts for a dynamic loss scale only.
    pub(crate) fn summarize(
        &self,
        clipping: Clipping,
        dynamic: bool,
        variables: &[Variable],
        each: &mut Vec<GradientStatistics>,
    ) -> Found {
        let mut found = Found::before(clipping);
        each.clear();
        for (index, variable) in variables.iter().enumerate() {
            let whole = GradientStatistics::from_blocks(
                &self.blocks[self.first_blocks[index]..self.first_blocks[index + 1]],
            );
            match variable.overwritten {
                true if dynamic => found.non_finite += whole.non_finite,
                true => {}
                false => found.add(clipping, &whole),
            }
            each.push(whole);
        }
        found.finish(clipping);
        found
    }
}

/// A gradient, or the part of one, to be measured before a step.
#[derive(Clone, Debug)]
#[must_use]
pub struct Gradient<'a> {
    pub(crate) variable: VariableId,
    pub(crate) range: Option<Range<usize>>,
    pub(crate) values: TensorRef<'a>,
}

impl<'a> Gradient<'a> {
    /// All of a variable's gradient.
    pub fn new(variable: VariableId, values: impl Into<TensorRef<'a>>) -> Self {
        Gradient { variable, range: None, values: values.into() }
    }

    /// The values are those of some elements only, in row-major order. The range begins and ends on a multiple of 4,096
    /// elements, or at the variable's end.
    pub fn range(self, range: Range<usize>) -> Self {
        Gradient { range: Some(range), ..self }
    }
}
