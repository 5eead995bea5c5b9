//! A step in parts: each gradient is used, and can be freed, as soon as it is there.

use std::ffi::c_void;

use lion::{BeginOptions, Error, Gradient};

use crate::optimizer::{LionOptimizer, State, call};
use crate::status::{Failure, LION_ERROR_VALUE, LionStatus};
use crate::structs::{self, Array, Struct};
use crate::tensor::{GRADIENT, Raw};
use crate::update::LionUpdate;
use crate::variable::{LionVariable, given_range, id};

/// A gradient, or a part of one, to be measured before its step.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionGradient {
    /// `sizeof(LionGradient)`.
    pub struct_size: usize,
    /// The variable.
    pub variable: LionVariable,
    /// The gradient.
    pub gradient: *const c_void,
    /// Its elements: those of the variable's shape, or of the range.
    pub len: usize,
    /// Its dtype.
    pub gradient_dtype: u32,
    /// Zero.
    pub reserved: u32,
    /// The first of the variable's elements that the gradient is of: a multiple of 4,096. With `range_end` 0 for all.
    pub range_start: usize,
    /// One past the last element: a multiple of 4,096, or the variable's end.
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

/// How a step begins. All zeros but the size is the ordinary way.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionBegin {
    /// `sizeof(LionBegin)`.
    pub struct_size: usize,
    /// Other than 0: only variables that are overwritten with their gradient will have one.
    pub only_overwrites: u32,
    /// Other than 0: other optimizers hold other shards of the variables, and may have the step's gradients, so that the step
    /// counts also if none is given here.
    pub elsewhere: u32,
}

// SAFETY: `repr(C)`, a word and a pair of u32.
unsafe impl Struct for LionBegin {
    const NAME: &'static str = "LionBegin";
    const DEFAULT: Self = LionBegin { struct_size: size_of::<Self>(), only_overwrites: 0, elsewhere: 0 };
}

/// Elements of a variable.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionRange {
    /// `sizeof(LionRange)`, which the caller sets.
    pub struct_size: usize,
    /// The variable.
    pub variable: LionVariable,
    /// The first element, in row-major order.
    pub start: usize,
    /// One past the last element.
    pub end: usize,
}

// SAFETY: `repr(C)`, words alone.
unsafe impl Struct for LionRange {
    const NAME: &'static str = "LionRange";
    const DEFAULT: Self = LionRange { struct_size: size_of::<Self>(), variable: 0, start: 0, end: 0 };
}

/// Measures gradients for the next step, which clipping by a norm and a dynamic loss scale need before the first part. It may
/// be called several times, with other gradients, and adds to what has been measured; `lion_begin` uses it up, and so does
/// everything else that is a step or changes the variables.
///
/// If it returns an error, nothing has been added. These are found: gradients that do not fit, elements that have been
/// measured before, a range that cuts a block of 4,096 elements.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `gradients` are readable, as long as the first one says. Each has the memory
/// that its length and dtype say, is initialised, and is not written during the call.
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
        let mut statistics = match optimizer.statistics.take() {
            Some(statistics) => statistics,
            None => optimizer.lion.statistics()?,
        };
        let measured = optimizer.lion.measure(&mut statistics, &mut list);
        optimizer.statistics = Some(statistics);
        Ok(measured?)
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Begins a step, which `lion_part` does in any number of parts and `lion_finish` ends. Hyperparameters, accumulation, loss
/// scale and clipping are decided here, with what `lion_measure` has found. Any cut into parts gives the bits of one
/// `lion_apply`. `options` may be null.
///
/// Until the step is finished or abandoned, other steps and `lion_register`, `lion_save` and `lion_load` return
/// `LION_ERROR_STEP`.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `options` is null or readable for the size that it says.
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
        // The open step is the one that parts are of.
        let _ = begun?;
        optimizer.statistics = None;
        Ok(())
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Does the step that has begun on these variables, or on ranges of them.
///
/// If it returns an error, nothing has been changed, and the step is still open. What `lion_apply` finds is found here too,
/// and elements that the step has been given before, and gradients that it needed to be measured.
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

/// Ends the step that has begun, and counts it; `lion_metrics` tells what it did. Elements that were never given count as ones
/// without a gradient, and a step that was given none is not counted.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_finish(optimizer: *mut LionOptimizer) -> LionStatus {
    let work = |optimizer: &mut State| {
        let step = optimizer.lion.open_step_id().ok_or(Error::NoStep)?;
        let metrics = optimizer.lion.finish(step)?;
        optimizer.metrics.set(&metrics);
        optimizer.statistics = None;
        Ok(())
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Gives up the step that has begun, if there is one: the next step has its number. What its parts have written stays written;
/// the number of such ranges goes to `ranges`, which may be null, and `lion_abandoned_range` tells them.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `ranges` is null or writable.
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

/// Writes a range that the step had written which was last abandoned: its elements and their state are as after the step.
/// `index` is below the number that `lion_abandon` gave.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `range` is null, or begins with its size and is writable for as many bytes.
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
