//! Registers variables.

use std::ffi::c_char;

use lion::{Dtype, GroupId, VariableId, VariableOptions};

use crate::optimizer::{LionOptimizer, State, call};
use crate::status::{Failure, LionStatus};
use crate::structs::{self, Struct};
use crate::tensor;

/// A variable of the optimizer that registered it: its number in the order of registration, from 0.
pub type LionVariable = u64;

/// Options of one variable. Zero is the default of each.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionVariableOptions {
    /// `sizeof(LionVariableOptions)`.
    pub struct_size: usize,
    /// The momentum's dtype; 0 for the optimizer's choice, or else the parameter's dtype.
    pub momentum_dtype: u32,
    /// Other than 0: no weight decay for this variable, whatever its name.
    pub exclude_from_weight_decay: u32,
    /// Other than 0: the gradient is the variable's new value, as with Keras's `overwrite_with_gradient`.
    pub overwrite_with_gradient: u32,
    /// Other than 0: leaves the variable out of `stochastic_rounding` and `split_master`, which are for bf16 alone.
    pub nearest_rounding: u32,
    /// The first element, in row-major order, that the optimizer keeps the state of, and one past the last: a shard, whose
    /// parameters and gradients come by ranges within it. Both 0 for all.
    pub shard_start: usize,
    /// One past the shard's last element.
    pub shard_end: usize,
}

// SAFETY: `repr(C)`, words and pairs of u32 alone.
unsafe impl Struct for LionVariableOptions {
    const NAME: &'static str = "LionVariableOptions";
    const DEFAULT: Self = LionVariableOptions {
        struct_size: size_of::<Self>(),
        momentum_dtype: 0,
        exclude_from_weight_decay: 0,
        overwrite_with_gradient: 0,
        nearest_rounding: 0,
        shard_start: 0,
        shard_end: 0,
    };
}

impl LionVariableOptions {
    fn options(&self) -> Result<VariableOptions, Box<Failure>> {
        let momentum_dtype = match self.momentum_dtype {
            0 => None,
            number => Some(tensor::dtype("momentum_dtype", number)?.0),
        };
        Ok(VariableOptions {
            momentum_dtype,
            exclude_from_weight_decay: self.exclude_from_weight_decay != 0,
            overwrite_with_gradient: self.overwrite_with_gradient != 0,
            constraint: None,
            group: GroupId::default(),
            nearest_rounding: self.nearest_rounding != 0,
            shard: given_range(self.shard_start, self.shard_end),
        })
    }
}

/// A range of a variable's elements; none where both ends are 0.
#[inline]
pub(crate) fn given_range(start: usize, end: usize) -> Option<std::ops::Range<usize>> {
    ((start, end) != (0, 0)).then_some(start..end)
}

/// The variable of a number of the caller's.
#[inline]
pub(crate) fn id(variable: LionVariable) -> VariableId {
    VariableId::from_index(usize::try_from(variable).unwrap_or(usize::MAX))
}

/// Adds a variable, whose state is zero, and writes its number to `variable`. `shape` has `rank` sides; a scalar has none.
/// The name, in UTF-8, is what checkpoints know the variable by. `options` may be null.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `name` is null or ends with a zero; `shape` is null or readable for `rank`
/// sides; `options` is null or readable for the size that it says; `variable` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_register(
    optimizer: *mut LionOptimizer,
    name: *const c_char,
    shape: *const usize,
    rank: usize,
    dtype: u32,
    options: *const LionVariableOptions,
    variable: *mut LionVariable,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        structs::check_pointer("variable", variable)?;
        // SAFETY: by this function's contract.
        let (name, shape, options) = unsafe {
            let name = structs::text("name", name)?;
            (name, sides(shape, rank)?, structs::read_or_default("options", options)?.options()?)
        };
        let (dtype, _): (Dtype, _) = tensor::dtype("dtype", dtype)?;
        optimizer.statistics = None;
        let id = optimizer.lion.register_with(name, shape, dtype, options)?;
        // SAFETY: as above.
        unsafe { structs::write_result("variable", variable, id.index() as LionVariable) }
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// More sides than a shape has.
const MOST_SIDES: usize = 1024;

/// # Safety
/// The pointer is null, or readable for so many sides.
unsafe fn sides<'a>(shape: *const usize, rank: usize) -> Result<&'a [usize], Box<Failure>> {
    match rank {
        0 => Ok(&[]),
        1..=MOST_SIDES => {
            structs::check_pointer("shape", shape)?;
            // SAFETY: aligned and not null, and by this function's contract.
            Ok(unsafe { std::slice::from_raw_parts(shape, rank) })
        }
        _ => Err(Failure::value("rank", rank, "at most 1024")),
    }
}
