//! A step at once: the tensors of variables, and the call that moves them.

use std::ffi::c_void;

use lion::{Error, Lion, Update};

use crate::optimizer::{LionOptimizer, State, call};
use crate::status::{Failure, LionStatus};
use crate::structs::{self, Array, Struct};
use crate::tensor::{COPY, GRADIENT, PARAMETER, Raw, SOURCE, Spans};
use crate::variable::{LionVariable, given_range, id};

/// A variable's tensors in one call: the parameter, which the call moves, and its gradient. Unused fields are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionUpdate {
    /// `sizeof(LionUpdate)`.
    pub struct_size: usize,
    /// The variable.
    pub variable: LionVariable,
    /// The parameter, of the variable's dtype.
    pub parameter: *mut c_void,
    /// The gradient; null if the variable has none in this call. Nothing is then done to it, but that it takes part in the
    /// moving average.
    pub gradient: *const c_void,
    /// The elements of each tensor: those of the variable's shape, or of the range.
    pub len: usize,
    /// The dtype of `parameter` and `source`: `LION_F32`, `LION_F16` or `LION_BF16`.
    pub parameter_dtype: u32,
    /// The gradient's dtype, any; not looked at without one.
    pub gradient_dtype: u32,
    /// The first of the variable's elements, in row-major order, that the tensors are of, and one past the last. Both 0 for
    /// all.
    pub range_start: usize,
    /// One past the last element of the range.
    pub range_end: usize,
    /// The parameter is read from here and written to `parameter`. Null if it is moved in place.
    pub source: *const c_void,
    /// The parameter, as it is stored after the call, is also written here, in any dtype. Null for no copy.
    pub copy: *mut c_void,
    /// The dtype of `copy`; not looked at without one.
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
        parameter: std::ptr::null_mut(),
        gradient: std::ptr::null(),
        len: 0,
        parameter_dtype: 0,
        gradient_dtype: 0,
        range_start: 0,
        range_end: 0,
        source: std::ptr::null(),
        copy: std::ptr::null_mut(),
        copy_dtype: 0,
        reserved: 0,
    };
}

impl LionUpdate {
    /// Checks what can be seen of the tensors, and adds them to a call's. `spans` notes their memory.
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

/// The updates of the last call, checked, and the structs that they are of. A training mostly gives the same addresses in
/// each call: then comparing the structs is all that is left to do.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Not dereferenced but in a call whose caller says that the memory is there.
    list: Vec<Update<'static>>,
    structs: Vec<LionUpdate>,
    spans: Spans,
}

impl Checked {
    /// Whether these are the structs of the last call.
    ///
    /// # Safety
    /// As for [`lion_apply`].
    #[inline]
    unsafe fn is_of(&self, given: &Array<LionUpdate>) -> bool {
        let Some(given) = given.as_slice() else { return false };
        let bytes = |structs: &[LionUpdate]| {
            // SAFETY: plain numbers and addresses without padding, which are initialised.
            unsafe { std::slice::from_raw_parts(structs.as_ptr().cast::<u8>(), size_of_val(structs)) }
        };
        !given.is_empty() && bytes(given) == bytes(&self.structs)
    }

    /// The updates, for a call whose caller has just given them.
    #[inline]
    pub(crate) fn list_mut(&mut self) -> &mut [Update<'static>] {
        &mut self.list
    }

    /// # Safety
    /// As for [`lion_apply`].
    #[inline(never)]
    unsafe fn check(&mut self, given: &Array<LionUpdate>) -> Result<(), Box<Failure>> {
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
        // From now on they are known.
        structs.extend(given.as_slice().unwrap_or_default());
        Ok(())
    }
}

impl State {
    /// Makes updates of the caller's structs.
    ///
    /// # Safety
    /// As for [`lion_apply`].
    #[inline]
    pub(crate) unsafe fn check_updates(
        &mut self,
        updates: *const LionUpdate,
        n: usize,
    ) -> Result<(), Box<Failure>> {
        // SAFETY: by this function's contract.
        unsafe {
            let given = Array::new("updates", updates, n)?;
            if self.updates.is_of(&given) { Ok(()) } else { self.updates.check(&given) }
        }
    }
}

/// Applies gradients to the variables of the call, each named at most once and in any order: a whole step. `lion_metrics`
/// tells what it did. With `n` = 0 nothing happens.
///
/// With a moving average a call must name every variable; one that has no gradient has a null one.
///
/// If it returns an error, nothing has been changed. These are found: null, misaligned and overlapping tensors, a wrong
/// dtype, length or range, an unknown variable, one that is named twice.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `updates` are readable, as long as the first one says. Each tensor has the
/// memory that its length and dtype say, is initialised where it is read, and is used by nothing else during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_apply(
    optimizer: *mut LionOptimizer,
    updates: *const LionUpdate,
    n: usize,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        // SAFETY: by this function's contract.
        unsafe { optimizer.check_updates(updates, n)? };
        match &optimizer.lion.apply(optimizer.updates.list_mut()) {
            Ok(metrics) => optimizer.metrics.set(metrics),
            Err(error) => return Err(error.into()),
        }
        optimizer.statistics = None;
        Ok(())
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Makes each parameter its moving average, as at the end of training: Keras's `finalize_variable_values`. Every variable
/// must be named. Gradients are ignored, and nothing is counted.
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
