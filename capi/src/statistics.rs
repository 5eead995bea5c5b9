//! Gradient statistics, which clipping by a norm and a dynamic loss scale need before a step: measured here, and exchanged
//! with other processes.
//!
//! A sum of squares depends on its order, so processes exchange the sums of blocks and not a sum: whoever measures a block
//! gets the same bits, and every process adds the blocks of all variables in the same order.

use std::ffi::c_void;

use lion::{Error, Gradient, Statistics, VariableId};
use lion_kernels::{GradientStatistics, STATISTICS_BLOCK};

use crate::optimizer::{LionOptimizer, State, call};
use crate::status::{Failure, LionStatus};
use crate::structs::{self, Array, Struct};
use crate::tensor::{GRADIENT, Raw};
use crate::variable::{LionVariable, given_range, id};

/// A gradient, or a range of one, to be measured before its step.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionGradient {
    /// `sizeof(LionGradient)`.
    pub struct_size: usize,
    /// The variable.
    pub variable: LionVariable,
    /// The gradient.
    pub gradient: *const c_void,
    /// Its number of elements: that of the variable's shape, or of the range.
    pub len: usize,
    /// Its dtype.
    pub gradient_dtype: u32,
    /// Zero.
    pub reserved: u32,
    /// The gradient is that of the variable's elements from `range_start` to before `range_end`: multiples of 4,096, or the
    /// variable's end. Both 0 for all elements.
    pub range_start: usize,
    /// The end of the range.
    pub range_end: usize,
}

// SAFETY: `repr(C)`, words and a pair of u32 alone.
unsafe impl Struct for LionGradient {
    const NAME: &'static str = "LionGradient";
    const DEFAULT: Self = LionGradient {
        struct_size: size_of::<Self>(),
        variable: 0,
        gradient: std::ptr::null(),
        len: 0,
        gradient_dtype: 0,
        reserved: 0,
        range_start: 0,
        range_end: 0,
    };
}

impl LionGradient {
    /// # Safety
    /// The gradient has the memory that its length and dtype say, which nothing writes while it is used.
    unsafe fn to_gradient<'a>(self) -> Result<Gradient<'a>, Box<Failure>> {
        structs::check_reserved("reserved", self.reserved)?;
        let raw = Raw::new(GRADIENT, self.gradient, self.gradient_dtype, self.len)?;
        // SAFETY: the address has been checked; the rest is this function's contract.
        let gradient = Gradient::new(id(self.variable), unsafe { raw.tensor_ref() });
        Ok(match given_range(self.range_start, self.range_end) {
            Some(range) => gradient.range(range),
            None => gradient,
        })
    }
}

/// The elements of a block of statistics. Block `i` of a variable begins at element `4096 * i`; the last may be shorter.
pub const LION_BLOCK: usize = 4096;
const _: () = assert!(LION_BLOCK == STATISTICS_BLOCK);

/// The statistics of one block of a gradient. It is plain data of this size in all versions, without `struct_size`: an array
/// may be sent as bytes to another process on a machine of the same byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LionBlock {
    /// The sum of the squares of the elements, divided by the loss scale and averaged but not clipped: 0 or more, and
    /// infinite or NaN if an element is.
    pub sum_of_squares: f64,
    /// How many elements are infinite or NaN, at most 4,096.
    pub non_finite: u64,
    /// The largest magnitude among the finite elements, divided and averaged but not clipped: 0 or more.
    pub max_abs: f32,
    /// 1 if the block has been measured. If not, 0, and so are the other fields.
    pub measured: u32,
}

impl LionBlock {
    fn new(statistics: &GradientStatistics, measured: bool) -> Self {
        let GradientStatistics { sum_of_squares, non_finite, max_abs } = *statistics;
        LionBlock { sum_of_squares, non_finite, max_abs, measured: measured.into() }
    }

    /// The statistics, or none if the block has not been measured.
    fn statistics(&self) -> Result<Option<GradientStatistics>, Box<Failure>> {
        let LionBlock { sum_of_squares, non_finite, max_abs, measured } = *self;
        match measured {
            _ if measured > 1 => Err(Failure::value("measured", measured, "0 or 1")),
            _ if sum_of_squares < 0.0 => {
                Err(Failure::value("sum_of_squares", sum_of_squares, "0 or more, or NaN"))
            }
            _ if non_finite > STATISTICS_BLOCK as u64 => {
                Err(Failure::value("non_finite", non_finite, "at most 4096"))
            }
            _ if max_abs.is_nan() || max_abs < 0.0 => Err(Failure::value("max_abs", max_abs, "0 or more")),
            0 => Ok(None),
            _ => Ok(Some(GradientStatistics { sum_of_squares, non_finite, max_abs })),
        }
    }
}

/// Measures gradients for the next step: clipping by a norm and a dynamic loss scale need their statistics before the first
/// part. Several calls may measure different gradients. `lion_begin` uses the statistics up; any other step and a change of
/// the variables discard them.
///
/// If it returns an error, nothing has been added. It finds gradients that do not fit, elements that have been measured
/// before, and a range that cuts a block of 4,096 elements.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `gradients` is readable for `n` structs, each as long as the first one says. Each
/// gradient has the memory that its length and dtype say, is initialised, and nothing writes it during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_measure(
    optimizer: *mut LionOptimizer,
    gradients: *const LionGradient,
    n: usize,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        // SAFETY: by this function's contract.
        let given = unsafe { Array::new("gradients", gradients, n)? };
        let mut list = Vec::new();
        let no_memory = |_| Error::OutOfMemory { what: "gradients", elements: given.len() };
        list.try_reserve_exact(given.len()).map_err(no_memory)?;
        for (index, gradient) in given.iter().enumerate() {
            // SAFETY: by this function's contract.
            list.push(unsafe { gradient?.to_gradient() }.map_err(|failure| failure.of("gradients", index))?);
        }
        let State { lion, statistics, .. } = optimizer;
        let statistics = match statistics {
            Some(statistics) => statistics,
            none => none.insert(lion.statistics()?),
        };
        Ok(lion.measure(statistics, &mut list)?)
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Writes the statistics of the blocks `first` to `first + n - 1` of a variable, as `lion_measure` and `lion_add_statistics`
/// have collected them for the next step. A variable has a block for each 4,096 elements of its shape, and for the rest, also
/// if the optimizer keeps a shard of it.
///
/// Between `lion_measure` and `lion_begin`, processes that hold shards exchange the blocks of theirs: each sends its own, and
/// gives those of the others to `lion_add_statistics`. All then clip alike, with the bits of one process.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `blocks` is writable for `n` blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_statistics(
    optimizer: *mut LionOptimizer,
    variable: LionVariable,
    first: usize,
    blocks: *mut LionBlock,
    n: usize,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        let registered = optimizer.lion.variables().len();
        let (found, measured) = part(optimizer.next_statistics()?, registered, id(variable), first, n)?;
        if n > 0 {
            structs::check_pointer("blocks", blocks)?;
        }
        for (index, (found, &measured)) in found.iter().zip(measured).enumerate() {
            // SAFETY: not null and aligned; by this function's contract there is memory for all.
            unsafe { blocks.add(index).write(LionBlock::new(found, measured)) };
        }
        Ok(())
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Adds the statistics of the blocks `first` to `first + n - 1` of a variable, which were measured elsewhere, to those for the
/// next step. Blocks whose `measured` is 0 are passed over.
///
/// If it returns an error, nothing has been added. These are found: an unknown variable, blocks beyond its last, numbers that
/// no block has, a block that has been measured or added before.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `blocks` is readable for `n` blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_add_statistics(
    optimizer: *mut LionOptimizer,
    variable: LionVariable,
    first: usize,
    blocks: *const LionBlock,
    n: usize,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        let (id, registered) = (id(variable), optimizer.lion.variables().len());
        let statistics = optimizer.next_statistics()?;
        let (_, measured) = part(statistics, registered, id, first, n)?;
        // SAFETY: by this function's contract.
        let given = unsafe { structs::plain("blocks", blocks, n)? };
        for (index, (block, &measured)) in given.iter().zip(measured).enumerate() {
            let found = block.statistics().map_err(|failure| failure.of("blocks", index))?;
            if measured && found.is_some() {
                let what = format!("block {} of variable id {variable}, measured before", first + index);
                return Err(Error::Statistics { what, allowed: "given once in a step".into() }.into());
            }
        }
        for (index, block) in given.iter().enumerate() {
            if let Some(found) = block.statistics()? {
                statistics.set_blocks(id, first + index, &[found])?;
            }
        }
        Ok(())
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

impl State {
    /// The statistics for the next step; new ones, with nothing measured, if there are none.
    fn next_statistics(&mut self) -> Result<&mut Statistics, Error> {
        if self.lion.open_step_id().is_some() {
            return Err(Error::OpenStep { step: self.lion.iterations() });
        }
        Ok(match &mut self.statistics {
            Some(statistics) => statistics,
            none => none.insert(self.lion.statistics()?),
        })
    }
}

/// Blocks of a variable, and whether each has been measured.
fn part(
    statistics: &Statistics,
    registered: usize,
    variable: VariableId,
    first: usize,
    n: usize,
) -> Result<(&[GradientStatistics], &[bool]), Error> {
    let index = variable.index();
    let (Some(blocks), Some(measured)) = (statistics.blocks(variable), statistics.measured(variable)) else {
        return Err(Error::UnknownVariable { index, registered });
    };
    let range = first..first.saturating_add(n);
    match (blocks.get(range.clone()), measured.get(range.clone())) {
        (Some(blocks), Some(measured)) => Ok((blocks, measured)),
        _ => Err(Error::Statistics {
            what: format!("blocks {}..{} of variable id {index}", range.start, range.end),
            allowed: format!("within its {} blocks", blocks.len()),
        }),
    }
}
