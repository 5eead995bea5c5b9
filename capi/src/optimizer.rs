//! The opaque optimizer, which one call at a time may use.
//!
//! An atomic flag says whether a call is running. A second call returns [`LION_ERROR_BUSY`]: from another thread, or from
//! the host's own parallel-for function. A call that panics never clears the flag, since the state is then unknown.

use std::cell::UnsafeCell;
use std::ffi::c_char;
use std::fmt;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use lion::options::Value;
use lion::{Config, Lion, Statistics, VariableId};
use lion_kernels::with_ieee_state;

use crate::metrics::LionMetrics;
use crate::options::LionOptions;
use crate::status::{
    Failure, LION_ERROR_BUSY, LION_ERROR_PANIC, LION_OK, LionStatus, guarded, silence_panics,
};
use crate::structs::{self, Struct};
use crate::update::Checked;

/// An optimizer. One call at a time may use it; a second call at the same time returns `LION_ERROR_BUSY`.
pub struct LionOptimizer {
    /// Whether a call uses the state.
    busy: AtomicBool,
    /// Whether that call has panicked.
    broken: AtomicBool,
    state: UnsafeCell<State>,
}

impl fmt::Debug for LionOptimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LionOptimizer")
            .field("busy", &self.busy)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// The state that a call on an optimizer works on.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) lion: Lion,
    /// The metrics of the last step.
    pub(crate) metrics: LionMetrics,
    /// Statistics for the next step, as far as they have been measured.
    pub(crate) statistics: Option<Statistics>,
    /// The elements that the last abandoned step had written.
    pub(crate) abandoned: Vec<(VariableId, Range<usize>)>,
    pub(crate) updates: Checked,
}

impl State {
    /// Drops the statistics. Most programs never measure any.
    #[inline]
    pub(crate) fn forget_statistics(&mut self) {
        #[cold]
        fn forget(statistics: &mut Option<Statistics>) {
            *statistics = None;
        }
        if self.statistics.is_some() {
            forget(&mut self.statistics);
        }
    }
}

impl LionOptimizer {
    fn new(lion: Lion) -> Self {
        let state = State {
            lion,
            metrics: LionMetrics::DEFAULT,
            statistics: None,
            abandoned: Vec::new(),
            updates: Checked::default(),
        };
        let (busy, broken) = (AtomicBool::new(false), AtomicBool::new(false));
        LionOptimizer { busy, broken, state: UnsafeCell::new(state) }
    }

    /// Keeps other calls out. If the call panics before [`leave`](Inside::leave), the optimizer is broken.
    ///
    /// A swap takes 4 ns less than a compare-and-exchange.
    #[inline]
    fn enter(&self) -> Result<Inside<'_>, Box<Failure>> {
        match self.busy.swap(true, Ordering::Acquire) {
            false => Ok(Inside(self)),
            true => Err(self.refusal()),
        }
    }

    #[cold]
    fn refusal(&self) -> Box<Failure> {
        match self.broken.load(Ordering::Relaxed) {
            false => Failure::new(LION_ERROR_BUSY, "the optimizer is in another call"),
            true => Failure::new(
                LION_ERROR_PANIC,
                "a call on this optimizer panicked before, so that its state is not known; free it",
            ),
        }
    }
}

/// Proof that no other call uses the optimizer.
struct Inside<'a>(&'a LionOptimizer);

impl Inside<'_> {
    #[inline]
    fn leave(self) {
        self.0.busy.store(false, Ordering::Release);
        mem::forget(self);
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.broken.store(true, Ordering::Relaxed);
    }
}

/// Does a function's work on an optimizer.
///
/// # Safety
/// The pointer is null, or from [`lion_new`] and not freed.
#[inline]
pub(crate) unsafe fn call(
    optimizer: *mut LionOptimizer,
    work: impl FnOnce(&mut State) -> Result<(), Box<Failure>>,
) -> LionStatus {
    guarded(|| {
        structs::check_pointer("optimizer", optimizer)?;
        // SAFETY: not null, and by this function's contract an optimizer.
        let optimizer = unsafe { &*optimizer };
        let inside = optimizer.enter()?;
        // SAFETY: no other call is inside.
        let done = work(unsafe { &mut *optimizer.state.get() });
        inside.leave();
        done
    })
}

/// Makes an optimizer with these options; null for the defaults. `lion_free` frees it.
///
/// # Safety
/// `options` is null or readable for the size that it says; its texts end with a zero. `optimizer` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_new(
    options: *const LionOptions,
    optimizer: *mut *mut LionOptimizer,
) -> LionStatus {
    let build = || {
        // SAFETY: by this function's contract.
        let builder = unsafe { structs::read_or_default("options", options)?.builder()? };
        Ok(builder.build()?)
    };
    // SAFETY: by this function's contract.
    unsafe { make(optimizer, build) }
}

/// Makes an optimizer from Keras's JSON: that of `optimizer.get_config()` or `keras.optimizers.serialize(optimizer)`, of a
/// `LossScaleOptimizer` around it, or of a model with its optimizer.
///
/// # Safety
/// `json` is null or a text that ends with a zero. `optimizer` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_new_from_config(
    json: *const c_char,
    optimizer: *mut *mut LionOptimizer,
) -> LionStatus {
    let build = || {
        // SAFETY: by this function's contract.
        let json = unsafe { structs::text("json", json)? };
        Ok(Lion::from_config(Config::from_json(json)?)?)
    };
    // SAFETY: by this function's contract.
    unsafe { make(optimizer, build) }
}

/// # Safety
/// `optimizer` is null or writable.
unsafe fn make(
    optimizer: *mut *mut LionOptimizer,
    build: impl FnOnce() -> Result<Lion, Box<Failure>>,
) -> LionStatus {
    silence_panics();
    guarded(|| {
        structs::check_pointer("optimizer", optimizer)?;
        // SAFETY: by this function's contract.
        unsafe { optimizer.write(std::ptr::null_mut()) };
        let lion = with_ieee_state(build)?;
        // SAFETY: as above.
        unsafe { optimizer.write(Box::into_raw(Box::new(LionOptimizer::new(lion)))) };
        Ok(())
    })
}

/// Frees an optimizer. Null is allowed. If another call uses the optimizer, the result is `LION_ERROR_BUSY` and the optimizer
/// stays.
///
/// # Safety
/// `optimizer` is null, or from `lion_new` and not freed; no call uses it from now on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_free(optimizer: *mut LionOptimizer) -> LionStatus {
    if optimizer.is_null() {
        return LION_OK;
    }
    guarded(|| {
        structs::check_pointer("optimizer", optimizer)?;
        // SAFETY: by this function's contract.
        match unsafe { &*optimizer }.enter() {
            Ok(inside) => mem::forget(inside),
            // A broken one can only be freed.
            Err(failure) if failure.status == LION_ERROR_PANIC => {}
            Err(failure) => return Err(failure),
        }
        // SAFETY: it was made by `Box::into_raw`, and nobody is inside.
        drop(unsafe { Box::from_raw(optimizer) });
        Ok(())
    })
}

/// Sets an option by its name, from the next step on. `learning_rate`, `beta_1`, `beta_2`, `weight_decay`, `cautious_decay` and
/// `decay_scale` may change; the other options are fixed once the optimizer is made, and setting them is an error. The value is
/// JSON: a number, a string, `true` or `false`, `null` for off, or a schedule as Keras serializes it.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. The texts are null or end with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_set(
    optimizer: *mut LionOptimizer,
    name: *const c_char,
    value: *const c_char,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        // SAFETY: by this function's contract.
        let (name, value) = unsafe { (structs::text("name", name)?, structs::text("value", value)?) };
        Ok(with_ieee_state(|| optimizer.lion.set(name, Value::from_json(value)?))?)
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Sets the learning rate from the next step on, in [0, inf). It replaces a schedule.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_set_learning_rate(
    optimizer: *mut LionOptimizer,
    learning_rate: f64,
) -> LionStatus {
    // SAFETY: by this function's contract.
    unsafe {
        call(optimizer, |optimizer| Ok(with_ieee_state(|| optimizer.lion.set_learning_rate(learning_rate))?))
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[test]
    fn a_second_call_is_busy_and_a_panic_breaks_the_optimizer() {
        let mut optimizer = ptr::null_mut();
        // SAFETY: an optimizer of `lion_new`, which is freed at the end.
        unsafe {
            assert_eq!(lion_new(ptr::null(), &raw mut optimizer), LION_OK);
            let nested = |_: &mut State| {
                assert_eq!(lion_set_learning_rate(optimizer, 0.5), LION_ERROR_BUSY);
                assert_eq!(lion_free(optimizer), LION_ERROR_BUSY);
                Ok(())
            };
            assert_eq!(call(optimizer, nested), LION_OK);
            assert_eq!(lion_set_learning_rate(optimizer, 0.5), LION_OK);
            assert_eq!(call(optimizer, |_| panic!("a bug")), LION_ERROR_PANIC);
            for _ in 0..2 {
                assert_eq!(lion_set_learning_rate(optimizer, 0.5), LION_ERROR_PANIC);
            }
            assert_eq!(lion_free(optimizer), LION_OK);
        }
    }
}
