//! A whole step: the tensors of variables, and the call that updates them.

use std::ffi::c_void;
use std::ptr;

use lion::{Error, Lion, Update};

use crate::optimizer::{LionOptimizer, State, call};
use crate::status::{Failure, LionStatus};
use crate::structs::{self, Array, Struct};
use crate::tensor::{COPY, GRADIENT, PARAMETER, Raw, SOURCE, Spans};
use crate::variable::{LionVariable, given_range, id};

/// A variable's tensors in one call: the parameter, which the call updates, and its gradient. Unused fields are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionUpdate {
    /// `sizeof(LionUpdate)`.
    pub struct_size: usize,
    /// The variable.
    pub variable: LionVariable,
    /// The parameter, of the variable's dtype.
    pub parameter: *mut c_void,
    /// The gradient; null if the variable has none in this call. Then only its moving average changes, if it has one.
    pub gradient: *const c_void,
    /// The number of elements of each tensor: that of the variable's shape, or of the range.
    pub len: usize,
    /// The dtype of `parameter` and `source`: `LION_F32`, `LION_F16` or `LION_BF16`.
    pub parameter_dtype: u32,
    /// The gradient's dtype; ignored without a gradient.
    pub gradient_dtype: u32,
    /// The tensors are the variable's elements from `range_start` to before `range_end`, in row-major order. Both 0 for all.
    pub range_start: usize,
    /// The end of the range.
    pub range_end: usize,
    /// The parameter is read from here and written to `parameter`. Null to update it in place.
    pub source: *const c_void,
    /// The stored parameter after the call is also written here, in any dtype. Null for no copy.
    pub copy: *mut c_void,
    /// The dtype of `copy`; ignored without a copy.
    pub copy_dtype: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, words and pairs of u32 alone.
unsafe impl Struct for LionUpdate {
    const NAME: &'static str = "LionUpdate";
    const DEFAULT: Self = LionUpdate {
        struct_size: size_of::<Self>(),
        variable: 0,
        parameter: ptr::null_mut(),
        gradient: ptr::null(),
        len: 0,
        parameter_dtype: 0,
        gradient_dtype: 0,
        range_start: 0,
        range_end: 0,
        source: ptr::null(),
        copy: ptr::null_mut(),
        copy_dtype: 0,
        reserved: 0,
    };
}

impl LionUpdate {
    /// Whether two structs are the same bytes. Inline, by vectors: a call of memcmp would take longer.
    #[inline]
    fn is(&self, other: &Self) -> bool {
        const WORDS: usize = size_of::<LionUpdate>() / size_of::<u64>();
        // SAFETY: the struct is of words and pairs of u32, without padding and all of them initialised.
        let words = |update: &Self| unsafe { ptr::from_ref(update).cast::<[u64; WORDS]>().read_unaligned() };
        let pairs = words(self).into_iter().zip(words(other));
        pairs.fold(0, |difference, (one, other)| difference | (one ^ other)) == 0
    }

    /// Checks the tensors, and adds them to those of a call. `spans` records their memory.
    ///
    /// # Safety
    /// The tensors have the memory that the lengths and dtypes say, which nothing else uses while the update is.
    unsafe fn add_to(&self, list: &mut Vec<Update<'static>>, spans: &mut Spans) -> Result<(), Box<Failure>> {
        structs::check_reserved("reserved", self.reserved)?;
        let len = self.len;
        let parameter = Raw::new(PARAMETER, self.parameter, self.parameter_dtype, len)?;
        let (mut gradient, mut source, mut copy) = (None, None, None);
        if !self.gradient.is_null() {
            let raw = Raw::new(GRADIENT, self.gradient, self.gradient_dtype, len)?;
            gradient = Some(raw);
        }
        if !self.source.is_null() {
            let raw = Raw::new(SOURCE, self.source, self.parameter_dtype, len)?;
            // The same memory is the step in place.
            if !raw.is_same_memory_as(&parameter) {
                source = Some(raw);
            }
        }
        if !self.copy.is_null() {
            let raw = Raw::new(COPY, self.copy, self.copy_dtype, len)?;
            copy = Some(raw);
        }
        let index = list.len();
        spans.writes(index, &parameter);
        gradient.iter().chain(&source).for_each(|raw| spans.reads(index, raw));
        copy.iter().for_each(|raw| spans.writes(index, raw));
        let (id, range) = (id(self.variable), given_range(self.range_start, self.range_end));
        // SAFETY: the addresses have been checked; the rest is this function's contract.
        list.push(unsafe {
            let (gradient, source) =
                (gradient.map(|raw| raw.tensor_ref()), source.map(|raw| raw.tensor_ref()));
            let copy = copy.map(|raw| raw.tensor_mut());
            Update::from_tensors(id, range, source, parameter.tensor_mut(), gradient, copy)
        });
        Ok(())
    }

    /// The parameter alone, of all that the optimizer holds of the variable, in the variable's dtype.
    pub(crate) fn whole_parameter(&self, lion: &Lion) -> Result<Raw, Box<Failure>> {
        let variable = id(self.variable);
        let Some(view) = lion.view(variable) else {
            let (index, registered) = (variable.index(), lion.variables().len());
            return Err(Error::UnknownVariable { index, registered }.into());
        };
        let parameter = Raw::new(PARAMETER, self.parameter, self.parameter_dtype, self.len)?;
        let (name, tensor, expected) = (view.name.to_owned(), "parameter", view.held.len());
        match () {
            () if parameter.dtype() != view.dtype => {
                let (found, expected) = (parameter.dtype(), view.dtype);
                Err(Error::Dtype { name, tensor, found, expected }.into())
            }
            () if self.len != expected => {
                Err(Error::Length { name, tensor, found: self.len, expected }.into())
            }
            () => Ok(parameter),
        }
    }
}

/// The checked updates of the last call, and the structs that they were made from. Training mostly passes the same addresses
/// in every call: then comparing the structs replaces the checks.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Dereferenced only in a call that passes the same addresses again.
    list: Vec<Update<'static>>,
    structs: Vec<LionUpdate>,
    spans: Spans,
}

impl Checked {
    /// Returns whether these are the structs of the last call.
    ///
    /// # Safety
    /// As for [`lion_apply`].
    #[inline(always)]
    unsafe fn is_of(&self, updates: *const LionUpdate, n: usize) -> bool {
        if n != self.structs.len() || n == 0 || updates.is_null() || !updates.is_aligned() {
            return false;
        }
        // SAFETY: not null and aligned; by this function's contract the first struct is readable as far as it says.
        if unsafe { updates.cast::<usize>().read() } != size_of::<LionUpdate>() {
            return false;
        }
        // SAFETY: as above, and so are the others, which are as long as the first.
        let given = unsafe { std::slice::from_raw_parts(updates, n) };
        given.iter().zip(&self.structs).all(|(one, other)| one.is(other))
    }

    /// The updates, for the call that has just passed them.
    #[inline]
    pub(crate) fn list_mut(&mut self) -> &mut [Update<'static>] {
        &mut self.list
    }

    /// # Safety
    /// As for [`lion_apply`].
    #[inline(never)]
    unsafe fn check(&mut self, updates: *const LionUpdate, n: usize) -> Result<(), Box<Failure>> {
        // SAFETY: by this function's contract.
        let given = unsafe { Array::new("updates", updates, n)? };
        let Checked { list, structs, spans } = self;
        list.clear();
        structs.clear();
        spans.clear();
        let no_memory = |_| Error::OutOfMemory { what: "updates", elements: given.len() };
        list.try_reserve(given.len()).map_err(no_memory)?;
        structs.try_reserve(given.len()).map_err(no_memory)?;
        for (index, update) in given.iter().enumerate() {
            // SAFETY: by this function's contract.
            let added = unsafe { update?.add_to(list, spans) };
            added.map_err(|failure| failure.of("updates", index))?;
        }
        spans.check("updates")?;
        // Recorded last: after an error there is nothing to compare with.
        structs.extend(given.as_slice().unwrap_or_default());
        Ok(())
    }
}

impl State {
    /// Checks the caller's structs, and makes updates of them.
    ///
    /// # Safety
    /// As for [`lion_apply`].
    #[inline(always)]
    pub(crate) unsafe fn check_updates(
        &mut self,
        updates: *const LionUpdate,
        n: usize,
    ) -> Result<(), Box<Failure>> {
        // SAFETY: by this function's contract.
        unsafe { if self.updates.is_of(updates, n) { Ok(()) } else { self.updates.check(updates, n) } }
    }
}

/// Applies gradients to variables, each at most once and in any order: a whole step. `lion_metrics` tells what it did. With
/// `n` = 0 nothing happens.
///
/// With a moving average, a call must name every variable; one without a gradient has a null `gradient`.
///
/// If it returns an error, nothing has changed. It finds null, misaligned and overlapping tensors, a wrong dtype, length or
/// range, an unknown variable, and a variable that is named twice.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `updates` is readable for `n` structs, each as long as the first one says. Each
/// tensor has the memory that its length and dtype say, is initialised if it is read, and nothing else uses it during the
/// call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_apply(
    optimizer: *mut LionOptimizer,
    updates: *const LionUpdate,
    n: usize,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        // SAFETY: by this function's contract.
        unsafe { optimizer.check_updates(updates, n)? };
        let metrics = match optimizer.lion.apply(optimizer.updates.list_mut()) {
            Ok(metrics) => metrics,
            Err(error) => return Err(error.into()),
        };
        optimizer.metrics.set(&metrics);
        optimizer.forget_statistics();
        Ok(())
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Overwrites each parameter with its moving average, at the end of training, as Keras's `finalize_variable_values`. Every
/// variable must be named. Gradients are ignored, and no step is counted.
///
/// # Safety
/// As for `lion_apply`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_finalize(
    optimizer: *mut LionOptimizer,
    updates: *const LionUpdate,
    n: usize,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        // SAFETY: by this function's contract.
        unsafe { optimizer.check_updates(updates, n)? };
        Ok(optimizer.lion.finalize_variable_values(optimizer.updates.list_mut())?)
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}
