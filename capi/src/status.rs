//! Statuses, the last error of a thread, and the guard that no panic passes.
//!
//! A function of the library returns a number; the message lies in a buffer of the calling thread, which stays where it is
//! until the thread ends. A panic is a bug of the library: it becomes [`LION_ERROR_PANIC`], and writes nothing.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// The result of a function: `LION_OK`, or a negative number by the kind of error. `lion_last_error` has the message. The numbers stay the same in all versions; later versions may add some.
pub type LionStatus = i32;

/// It worked.
pub const LION_OK: LionStatus = 0;
/// An option or an argument outside its range or of another type, or options that exclude each other.
pub const LION_ERROR_VALUE: LionStatus = -1;
/// The name or the number of something that does not exist, or a name that exists already.
pub const LION_ERROR_NAME: LionStatus = -2;
/// Text or a file that is not what it must be.
pub const LION_ERROR_FORMAT: LionStatus = -3;
/// A tensor of another shape, length or dtype than its variable's, or one that overlaps another.
pub const LION_ERROR_TENSOR: LionStatus = -4;
/// Variables that a call must give, must not give, or gives twice.
pub const LION_ERROR_STEP: LionStatus = -5;
/// A checkpoint of another optimizer.
pub const LION_ERROR_STATE: LionStatus = -6;
/// A file that the system does not let be read or written.
pub const LION_ERROR_IO: LionStatus = -7;
/// Memory that the system does not give.
pub const LION_ERROR_MEMORY: LionStatus = -8;
/// Right in itself, and impossible here: on this machine, in this version, after the optimizer was built.
pub const LION_ERROR_UNSUPPORTED: LionStatus = -9;
/// A pointer that is null or misaligned, or memory that would go beyond the end of the address space.
pub const LION_ERROR_POINTER: LionStatus = -50;
/// Another thread is in a call on the same optimizer, or the host's own function for threads is.
pub const LION_ERROR_BUSY: LionStatus = -51;
/// The library has a bug: a call panicked. The optimizer's state is not known, and every later call on the optimizer but
/// `lion_free` returns this too.
pub const LION_ERROR_PANIC: LionStatus = -100;

/// Why a function did nothing. It lies behind a pointer, so that results stay small where all is well.
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

    /// An argument that is not what it must be.
    #[cold]
    pub(crate) fn value(name: &str, found: impl std::fmt::Display, allowed: &str) -> Box<Self> {
        Self::new(LION_ERROR_VALUE, format!("{name} is {found}; expected {allowed}"))
    }

    /// Says in which struct of an array the trouble is.
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

/// Bytes of the buffer of a message, with the zero at its end.
const MESSAGE_BYTES: usize = 1024;

thread_local! {
    static MESSAGE: UnsafeCell<[u8; MESSAGE_BYTES]> = const { UnsafeCell::new([0; MESSAGE_BYTES]) };
}

/// The message of the last call on this thread that failed, in UTF-8; empty if none has. It is at most 1,023 bytes long,
/// and cut if it would be longer.
///
/// The pointer is the same for all calls on one thread, and valid until the thread ends. The next call that fails on the
/// thread overwrites the text; a call that succeeds leaves it.
#[unsafe(no_mangle)]
pub extern "C" fn lion_last_error() -> *const c_char {
    MESSAGE.with(|message| message.get().cast_const().cast())
}

fn set_message(text: &str) {
    let end = text.floor_char_boundary(MESSAGE_BYTES - 1);
    let bytes = text.as_bytes().get(..end).unwrap_or_default();
    MESSAGE.with(|message| {
        // SAFETY: the buffer is this thread's alone, and Rust makes no other reference to it.
        let buffer = unsafe { &mut *message.get() };
        buffer[..bytes.len()].copy_from_slice(bytes);
        // A zero within would end the text early.
        buffer[..bytes.len()].iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b'?');
        buffer[bytes.len()..].fill(0);
    });
}

/// Runs a function's work. A panic becomes a status.
#[inline]
pub(crate) fn guarded(work: impl FnOnce() -> Result<(), Box<Failure>>) -> LionStatus {
    match caught(work) {
        Ok(Ok(())) => LION_OK,
        Ok(Err(failure)) => report(&failure),
        Err(message) => report(&Failure { status: LION_ERROR_PANIC, message }),
    }
}

#[cold]
fn report(failure: &Failure) -> LionStatus {
    set_message(&failure.message);
    failure.status
}

/// Runs some work. Gives the message of a panic.
#[inline]
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // Whoever owns the state that the work leaves half done marks it, see `LionOptimizer`.
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

/// From now on a panic on a thread of C, or on a worker of the pool, writes nothing to standard error. Rust knows no name of
/// such a thread. It knows those of a Rust program's main thread and of its tests, whose panics are not this library's.
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
