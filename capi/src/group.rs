//! Groups of variables with hyperparameters of their own.

use std::ffi::c_char;

use lion::{Group, GroupId};
use lion_kernels::with_ieee_state;

use crate::optimizer::{LionOptimizer, State, call};
use crate::status::{Failure, LionStatus};
use crate::structs;

/// A group of the optimizer that added it: its number in the order of adding, from 1. 0 is the optimizer's own
/// hyperparameters.
pub type LionGroup = u64;

/// The group of a number of the caller's.
pub(crate) fn id(group: LionGroup) -> GroupId {
    GroupId::from_index(usize::try_from(group).unwrap_or(usize::MAX))
}

/// # Safety
/// The pointer is null, or a text that ends with a zero.
unsafe fn read(json: *const c_char) -> Result<Group, Box<Failure>> {
    // SAFETY: by this function's contract.
    let json = unsafe { structs::text("json", json)? };
    Ok(with_ieee_state(|| Group::from_json(json))?)
}

/// Adds a group of hyperparameters for `LionVariableOptions`, and writes its number to `group`. `json` is an object of those
/// that differ from the optimizer's own, such as `{"learning_rate_multiplier": 0.1, "weight_decay": null}`: also `beta_1`,
/// `beta_2`, `cautious_decay` and `decay_scale`. A weight decay of null is none. `beta_1`, `beta_2` and `weight_decay` may be
/// schedules, as in `lion_set`.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `json` is null or ends with a zero. `group` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_add_group(
    optimizer: *mut LionOptimizer,
    json: *const c_char,
    group: *mut LionGroup,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        structs::check_pointer("group", group)?;
        // SAFETY: by this function's contract.
        let made = optimizer.lion.add_group(unsafe { read(json)? })?;
        // SAFETY: as above.
        unsafe { structs::write_result("group", group, made.index() as LionGroup) }
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Replaces a group's hyperparameters from the next step on, with an object as in `lion_add_group`: what it leaves out is the
/// optimizer's own. Those of group 0 apply to the variables of no other group.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `json` is null or ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_set_group(
    optimizer: *mut LionOptimizer,
    group: LionGroup,
    json: *const c_char,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        // SAFETY: by this function's contract.
        Ok(optimizer.lion.set_group(id(group), unsafe { read(json)? })?)
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}
