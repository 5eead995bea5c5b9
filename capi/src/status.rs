//! Statuses, the last error of a thread, and the guard that stops panics.
//!
//! Every function returns a status. The message is in a buffer of the calling thread, which keeps its address until the
//! thread ends. A panic is a bug in the library: the guard turns it into [`LION_ERROR_PANIC`] and prints nothing.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// The result of a function: `LION_OK`, or a negative number for the kind of error. `lion_last_error` has the message. A
/// number keeps its meaning in all versions; later versions may add numbers.
pub type LionStatus = i32;

/// Success.
pub const LION_OK: LionStatus = 0;
/// An option or an argument outside its range or of another type, or options that exclude each other.
pub const LION_ERROR_VALUE: LionStatus = -1;
/// A name or number of something that does not exist, or a name that is taken.
pub const LION_ERROR_NAME: LionStatus = -2;
/// A malformed text or file.
pub const LION_ERROR_FORMAT: LionStatus = -3;
/// A tensor whose shape, length or dtype is not its variable's, or that overlaps another tensor.
pub const LION_ERROR_TENSOR: LionStatus = -4;
/// A step out of order, or variables that a call lacks, must not have, or has twice.
pub const LION_ERROR_STEP: LionStatus = -5;
/// A checkpoint of another optimizer.
pub const LION_ERROR_STATE: LionStatus = -6;
/// A file that cannot be read or written.
pub const LION_ERROR_IO: LionStatus = -7;
/// Out of memory.
pub const LION_ERROR_MEMORY: LionStatus = -8;
/// A valid request that this machine, this version, or an optimizer that is already built does not support.
pub const LION_ERROR_UNSUPPORTED: LionStatus = -9;
/// A null or misaligned pointer, or memory that would exceed the address space.
pub const LION_ERROR_POINTER: LionStatus = -50;
/// Another call on the same optimizer is running: on another thread, or the one that called the host's parallel-for.
pub const LION_ERROR_BUSY: LionStatus = -51;
/// A bug in the library: a call panicked. The optimizer's state is unknown, and every later call on it except `lion_free`
/// returns this too.
pub const LION_ERROR_PANIC: LionStatus = -100;

/// Why a function did nothing. It is boxed, so that a successful result stays small.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: LionStatus,
    pub(crate) message: String,
}

impl Failure {
    #[cold]
    pub(crate) fn new(status: LionStatus, message: impl Into<String>) -> Box<Self> {
        Box::new(Failure { status, message: message.into() })
    }

    /// An argument outside its range.
    #[cold]
    pub(crate) fn value(name: &str, found: impl std::fmt::Display, allowed: &str) -> Box<Self> {
        Self::new(LION_ERROR_VALUE, format!("{name} is {found}; expected {allowed}"))
    }

    /// Names the struct of an array that the error is about.
    #[cold]
    pub(crate) fn of(&self, name: &str, index: usize) -> Box<Self> {
        Self::new(self.status, format!("{name}[{index}].{}", self.message))
    }

    /// A pointer that cannot be used.
    #[cold]
    pub(crate) fn pointer(name: &str, found: &str) -> Box<Self> {
        Self::new(LION_ERROR_POINTER, format!("{name} is {found}"))
    }
}

impl From<&lion::Error> for Box<Failure> {
    #[cold]
    fn from(error: &lion::Error) -> Self {
        Failure::new(-LionStatus::from(error.code()), error.to_string())
    }
}

impl From<lion::Error> for Box<Failure> {
    #[cold]
    fn from(error: lion::Error) -> Self {
        (&error).into()
    }
}

impl From<lion_kernels::Error> for Box<Failure> {
    #[cold]
    fn from(error: lion_kernels::Error) -> Self {
        lion::Error::from(error).into()
    }
}

/// Bytes of the message buffer, including the terminating zero.
const MESSAGE_BYTES: usize = 1024;

thread_local! {
    static MESSAGE: UnsafeCell<[u8; MESSAGE_BYTES]> = const { UnsafeCell::new([0; MESSAGE_BYTES]) };
}

/// Returns the message of the last call on this thread that failed, in UTF-8; empty if none has failed. A message has at
/// most 1,023 bytes; a longer one is truncated.
///
/// The pointer is the same for all calls on a thread, and valid until the thread ends. The next call on the thread that
/// fails overwrites the text. A call that succeeds does not change it.
#[unsafe(no_mangle)]
pub extern "C" fn lion_last_error() -> *const c_char {
    MESSAGE.with(|message| message.get().cast_const().cast())
}

fn set_message(text: &str) {
    let end = text.floor_char_boundary(MESSAGE_BYTES - 1);
    let bytes = text.as_bytes().get(..end).unwrap_or_default();
    MESSAGE.with(|message| {
        // SAFETY: only this thread uses the buffer, and no other reference to it exists.
        let buffer = unsafe { &mut *message.get() };
        buffer[..bytes.len()].copy_from_slice(bytes);
        // A zero within would end the text early.
        buffer[..bytes.len()].iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b'?');
        buffer[bytes.len()..].fill(0);
    });
}

/// Runs a function's work, and turns an error or a panic into a status.
#[inline]
pub(crate) fn guarded(work: impl FnOnce() -> Result<(), Box<Failure>>) -> LionStatus {
    let status = || match work() {
        Ok(()) => LION_OK,
        Err(failure) => report(&failure),
    };
    match caught(status) {
        Ok(status) => status,
        Err(message) => report(&Failure { status: LION_ERROR_PANIC, message }),
    }
}

#[cold]
fn report(failure: &Failure) -> LionStatus {
    set_message(&failure.message);
    failure.status
}

/// Runs some work. Returns the message if it panics.
#[inline]
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // The owner of half-changed state marks it as broken: see `LionOptimizer`.
    catch_unwind(AssertUnwindSafe(work)).map_err(message_of)
}

#[cold]
fn message_of(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
    let message = format!("the library panicked, which is a bug in it: {text}");
    // Its destructor may panic too.
    std::mem::forget(payload);
    message
}

/// From now on, a panic on a C thread or a pool worker prints nothing to standard error. Such threads have no name in Rust.
/// A Rust program's main thread and its tests have names, and keep their panic messages.
pub(crate) fn silence_panics() {
    static SILENCED: Once = Once::new();
    SILENCED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name().is_some() {
                before(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn last_error() -> String {
        // SAFETY: the text of this thread, which ends with a zero.
        unsafe { CStr::from_ptr(lion_last_error()) }.to_str().expect("UTF-8").into()
    }

    #[test]
    fn a_panic_is_a_status() {
        silence_panics();
        assert_eq!(guarded(|| panic!("at {}", 7)), LION_ERROR_PANIC);
        assert_eq!(last_error(), "the library panicked, which is a bug in it: at 7");
        assert_eq!(guarded(|| std::panic::panic_any(7)), LION_ERROR_PANIC);
        assert_eq!(last_error(), "the library panicked, which is a bug in it: no message");
    }

    #[test]
    fn a_message_is_cut_between_characters_and_stays() {
        assert_eq!(last_error(), "");
        let place = lion_last_error();
        let long = "ä".repeat(MESSAGE_BYTES);
        assert_eq!(guarded(|| Err(Failure::new(LION_ERROR_VALUE, long))), LION_ERROR_VALUE);
        assert_eq!(last_error(), "ä".repeat(511));
        assert_eq!(guarded(|| Ok(())), LION_OK);
        assert_eq!(last_error(), "ä".repeat(511));
        guarded(|| Err(Failure::new(LION_ERROR_VALUE, "a\0b")));
        assert_eq!((last_error().as_str(), lion_last_error()), ("a?b", place));
        std::thread::spawn(|| assert_eq!(last_error(), "")).join().expect("no panic");
    }

    #[test]
    fn statuses_are_the_codes_of_the_library() {
        let statuses = [
            LION_ERROR_VALUE,
            LION_ERROR_NAME,
            LION_ERROR_FORMAT,
            LION_ERROR_TENSOR,
            LION_ERROR_STEP,
            LION_ERROR_STATE,
            LION_ERROR_IO,
            LION_ERROR_MEMORY,
            LION_ERROR_UNSUPPORTED,
        ];
        let codes: Vec<_> = lion::ErrorKind::ALL.iter().map(|kind| -LionStatus::from(kind.code())).collect();
        assert_eq!(codes, statuses);
    }
}
