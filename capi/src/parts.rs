//! A step in parts: each gradient can be used and freed as soon as it is computed.

use lion::{BeginOptions, Error};

use crate::optimizer::{LionOptimizer, State, call};
use crate::status::{Failure, LION_ERROR_VALUE, LionStatus};
use crate::structs::{self, Struct};
use crate::update::LionUpdate;
use crate::variable::LionVariable;

/// How a step begins. Zero is the default of each field.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionBegin {
    /// `sizeof(LionBegin)`.
    pub struct_size: usize,
    /// Other than 0: only variables that are overwritten with their gradient will have a gradient.
    pub only_overwrites: u32,
    /// Other than 0: other optimizers hold other shards of the variables. The step then counts even if this optimizer gets no
    /// gradient.
    pub elsewhere: u32,
}

// SAFETY: `repr(C)`, a word and a pair of u32.
unsafe impl Struct for LionBegin {
    const NAME: &'static str = "LionBegin";
    const DEFAULT: Self = LionBegin { struct_size: size_of::<Self>(), only_overwrites: 0, elsewhere: 0 };
}

/// A range of a variable's elements.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionRange {
    /// `sizeof(LionRange)`, which the caller sets.
    pub struct_size: usize,
    /// The variable.
    pub variable: LionVariable,
    /// The first element, in row-major order.
    pub start: usize,
    /// The end of the range.
    pub end: usize,
}

// SAFETY: `repr(C)`, words alone.
unsafe impl Struct for LionRange {
    const NAME: &'static str = "LionRange";
    const DEFAULT: Self = LionRange { struct_size: size_of::<Self>(), variable: 0, start: 0, end: 0 };
}

/// Begins a step. Any number of calls of `lion_part` follow, and `lion_finish` ends it. Hyperparameters, accumulation, loss
/// scale and clipping are decided here, from the statistics of `lion_measure` and `lion_add_statistics`. Any split into parts
/// gives the bits of one `lion_apply`. `options` may be null.
///
/// Until the step is finished or abandoned, other steps and `lion_register`, `lion_save` and `lion_load` return
/// `LION_ERROR_STEP`.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `options` is null or readable for the size that it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_begin(optimizer: *mut LionOptimizer, options: *const LionBegin) -> LionStatus {
    let work = |optimizer: &mut State| {
        // SAFETY: by this function's contract.
        let options = unsafe { structs::read_or_default("options", options)? };
        let begun = optimizer.lion.begin(BeginOptions {
            statistics: optimizer.statistics.as_ref(),
            only_overwrites: options.only_overwrites != 0,
            elsewhere: options.elsewhere != 0,
        });
        // Later calls find the open step without its id.
        let _ = begun?;
        optimizer.statistics = None;
        Ok(())
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Applies the open step to these variables, or to ranges of them.
///
/// If it returns an error, nothing has changed, and the step is still open. It finds what `lion_apply` finds, elements that an
/// earlier part had, and gradients without the statistics that the step needs.
///
/// # Safety
/// As for `lion_apply`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_part(
    optimizer: *mut LionOptimizer,
    updates: *const LionUpdate,
    n: usize,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        // SAFETY: by this function's contract.
        unsafe { optimizer.check_updates(updates, n)? };
        let step = optimizer.lion.open_step_id().ok_or(Error::NoStep)?;
        Ok(optimizer.lion.part(step, optimizer.updates.list_mut())?)
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Ends the open step, and counts it; `lion_metrics` tells what it did. Elements that no part had count as ones without a
/// gradient. A step without any part is not counted.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_finish(optimizer: *mut LionOptimizer) -> LionStatus {
    let work = |optimizer: &mut State| {
        let step = optimizer.lion.open_step_id().ok_or(Error::NoStep)?;
        optimizer.metrics.set(&optimizer.lion.finish(step)?);
        optimizer.statistics = None;
        Ok(())
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Abandons the open step, if there is one: the next step gets its number. What its parts have written stays written. The
/// number of written ranges goes to `ranges`, which may be null; `lion_abandoned_range` returns each.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `ranges` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_abandon(optimizer: *mut LionOptimizer, ranges: *mut usize) -> LionStatus {
    let work = |optimizer: &mut State| {
        if !ranges.is_null() {
            structs::check_pointer("ranges", ranges)?;
        }
        optimizer.abandoned = optimizer.lion.abandon().map_or_else(Vec::new, |abandoned| abandoned.written);
        if !ranges.is_null() {
            // SAFETY: not null and aligned, and writable by this function's contract.
            unsafe { ranges.write(optimizer.abandoned.len()) };
        }
        Ok(())
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Writes one of the ranges that the last abandoned step had written: their elements and state are as after that step.
/// `index` is less than the number from `lion_abandon`.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `range` is null, or begins with its size and is writable for as many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_abandoned_range(
    optimizer: *mut LionOptimizer,
    index: usize,
    range: *mut LionRange,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        let known = optimizer.abandoned.len();
        let (variable, elements) = optimizer.abandoned.get(index).ok_or_else(|| {
            Failure::new(LION_ERROR_VALUE, format!("index is {index}; expected less than the {known} ranges"))
        })?;
        let found = LionRange {
            variable: variable.index() as LionVariable,
            start: elements.start,
            end: elements.end,
            ..LionRange::DEFAULT
        };
        // SAFETY: by this function's contract.
        unsafe { structs::write("range", range, found) }
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}
