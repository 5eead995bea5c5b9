//! Registers variables.

use std::ffi::c_char;

use lion::{Constraint, VariableId, VariableOptions};
use lion_kernels::with_ieee_state;

use crate::group::{self, LionGroup};
use crate::optimizer::{LionOptimizer, State, call};
use crate::status::{Failure, LionStatus};
use crate::structs::{self, Struct};
use crate::tensor;

/// A variable of one optimizer: its number in the order of registration, from 0.
pub type LionVariable = u64;

/// Options of one variable. Zero is the default of each.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionVariableOptions {
    /// `sizeof(LionVariableOptions)`.
    pub struct_size: usize,
    /// The momentum's dtype; 0 for the option `momentum_dtype`, or else the parameter's dtype.
    pub momentum_dtype: u32,
    /// Other than 0: no weight decay for this variable, whatever its name.
    pub exclude_from_weight_decay: u32,
    /// Other than 0: the gradient is the variable's new value, as with Keras's `overwrite_with_gradient`.
    pub overwrite_with_gradient: u32,
    /// Other than 0: leaves the variable out of `stochastic_rounding` and `split_master`, which are for bf16 alone.
    pub nearest_rounding: u32,
    /// A shard: the optimizer keeps the state of the elements from `shard_start` to before `shard_end`, in row-major order,
    /// and parameters and gradients come by ranges within it. Both 0 for all elements.
    pub shard_start: usize,
    /// The end of the shard. A shard without elements begins and ends at the variable's end.
    pub shard_end: usize,
    /// Whose hyperparameters the variable has: a group of `lion_add_group`, or 0, the optimizer's own.
    pub group: LionGroup,
    /// A constraint that the parameter is made to fulfil after each step in which it has a gradient, as JSON that
    /// `keras.constraints.serialize` writes: `{"class_name": "MaxNorm", "config": {"max_value": 2, "axis": 0}}`; also
    /// `NonNeg`, `UnitNorm` and `MinMaxNorm`. An `axis` of null is one norm over all elements. Null for none.
    pub constraint: *const c_char,
}

// SAFETY: `repr(C)`, words, u64 and pairs of u32 alone.
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
        group: 0,
        constraint: std::ptr::null(),
    };
}

impl LionVariableOptions {
    /// # Safety
    /// `constraint` is null or a text that ends with a zero.
    unsafe fn options(&self) -> Result<VariableOptions, Box<Failure>> {
        // SAFETY: by this function's contract.
        let constraint = match unsafe { structs::text_or_none("constraint", self.constraint)? } {
            None => None,
            Some(json) => Some(constraint_of(json)?),
        };
        let momentum_dtype = match self.momentum_dtype {
            0 => None,
            number => Some(tensor::dtype("momentum_dtype", number)?),
        };
        Ok(VariableOptions {
            momentum_dtype,
            exclude_from_weight_decay: self.exclude_from_weight_decay != 0,
            overwrite_with_gradient: self.overwrite_with_gradient != 0,
            constraint,
            group: group::id(self.group),
            nearest_rounding: self.nearest_rounding != 0,
            shard: given_range(self.shard_start, self.shard_end),
        })
    }
}

fn constraint_of(json: &str) -> Result<Constraint, Box<Failure>> {
    with_ieee_state(|| Constraint::from_json(json))
        .map_err(|error| Failure::new(-LionStatus::from(error.code()), format!("constraint: {error}")))
}

/// A range of a variable's elements; none if both ends are 0.
#[inline]
pub(crate) fn given_range(start: usize, end: usize) -> Option<std::ops::Range<usize>> {
    ((start, end) != (0, 0)).then_some(start..end)
}

/// The variable of a caller's number.
#[inline]
pub(crate) fn id(variable: LionVariable) -> VariableId {
    VariableId::from_index(usize::try_from(variable).unwrap_or(usize::MAX))
}

/// Adds a variable with zero state, and writes its number to `variable`. `shape` has `rank` dimensions; a scalar has none.
/// Checkpoints identify the variable by its name, in UTF-8. `options` may be null.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `name` is null or ends with a zero; `shape` is null or readable for `rank`
/// dimensions; `options` is null or readable for the size that it says, and its text ends with a zero; `variable` is null or
/// writable.
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
            (name, dimensions(shape, rank)?, structs::read_or_default("options", options)?.options()?)
        };
        let dtype = tensor::dtype("dtype", dtype)?;
        optimizer.statistics = None;
        let id = optimizer.lion.register_with(name, shape, dtype, options)?;
        // SAFETY: as above.
        unsafe { structs::write_result("variable", variable, id.index() as LionVariable) }
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// More dimensions than a shape has.
const MAX_RANK: usize = 1024;

/// # Safety
/// The pointer is null, or readable for so many dimensions.
unsafe fn dimensions<'a>(shape: *const usize, rank: usize) -> Result<&'a [usize], Box<Failure>> {
    if rank > MAX_RANK {
        return Err(Failure::value("rank", rank, "at most 1024"));
    }
    // SAFETY: by this function's contract.
    unsafe { structs::plain("shape", shape, rank) }
}
