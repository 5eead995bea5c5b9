//! `lion_cpu.jax.lion_step`: a step as an XLA custom call, by XLA's C interface for foreign functions (FFI).
//!
//! The structs are those of XLA's `xla/ffi/api/c_api.h`, version 0.3, as far as they are used. The interface is not yet
//! final, so this is experimental: the handler answers with the version that it knows, and XLA refuses it if the two differ
//! in the major one.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use lion::Profile;
use lion_autotune::{Dtypes, Operation};
use lion_kernels::{Dtype, LionStep, StepTensors, Task, TensorMut, TensorRef, run};
use pyo3::prelude::*;

use crate::pool;

const MAJOR: c_int = 0;
const MINOR: c_int = 3;
/// `XLA_FFI_Extension_Metadata`.
const METADATA: c_int = 1;
/// `XLA_FFI_ExecutionStage_EXECUTE`.
const EXECUTE: c_int = 3;
/// `XLA_FFI_ArgType_BUFFER` and `XLA_FFI_RetType_BUFFER`.
const BUFFER: c_int = 1;
/// `XLA_FFI_AttrType_SCALAR`.
const SCALAR: c_int = 3;
/// `XLA_FFI_DataType_F32`.
const F32: c_int = 11;
/// `XLA_FFI_Error_Code_INVALID_ARGUMENT`.
const INVALID_ARGUMENT: c_int = 3;

#[repr(C)]
struct Extension {
    size: usize,
    kind: c_int,
    next: *mut Extension,
}

#[repr(C)]
struct Version {
    size: usize,
    extension: *mut Extension,
    major: c_int,
    minor: c_int,
}

#[repr(C)]
struct Metadata {
    size: usize,
    version: Version,
    traits: u32,
    state_type: i64,
}

#[repr(C)]
struct MetadataExtension {
    base: Extension,
    metadata: *mut Metadata,
}

#[repr(C)]
struct ErrorArguments {
    size: usize,
    extension: *mut Extension,
    message: *const c_char,
    code: c_int,
}

#[repr(C)]
struct Api {
    size: usize,
    extension: *mut Extension,
    version: Version,
    internal: *const c_void,
    create_error: unsafe extern "C" fn(*mut ErrorArguments) -> *mut c_void,
}

/// `XLA_FFI_Args` and `XLA_FFI_Rets`.
#[repr(C)]
struct Buffers {
    size: usize,
    extension: *mut Extension,
    len: i64,
    kinds: *const c_int,
    buffers: *const *const Buffer,
}

#[repr(C)]
struct Buffer {
    size: usize,
    extension: *mut Extension,
    dtype: c_int,
    data: *mut u8,
    rank: i64,
    sides: *const i64,
}

#[repr(C)]
struct Attributes {
    size: usize,
    extension: *mut Extension,
    len: i64,
    kinds: *const c_int,
    names: *const *const Span,
    values: *const *const Scalar,
}

#[repr(C)]
struct Span {
    start: *const u8,
    len: usize,
}

#[repr(C)]
struct Scalar {
    dtype: c_int,
    value: *const c_void,
}

#[repr(C)]
pub(crate) struct CallFrame {
    size: usize,
    extension: *mut Extension,
    api: *const Api,
    context: *mut c_void,
    stage: c_int,
    arguments: Buffers,
    results: Buffers,
    attributes: Attributes,
}

/// The address of the handler, for `jax.ffi.register_ffi_target`.
#[pyfunction]
pub(crate) fn jax_handler() -> usize {
    let handler: unsafe extern "C" fn(*mut CallFrame) -> *mut c_void = handler;
    (handler as *const c_void).expose_provenance()
}

/// Returns null, or XLA's error.
///
/// # Safety
/// XLA calls it, by the contract of `XLA_FFI_Handler`.
unsafe extern "C" fn handler(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: XLA gives a frame that lives during the call, with the parts that its header says.
    let (frame, extension) = unsafe { (&*frame, (*frame).extension) };
    // SAFETY: XLA's extensions begin with their kind, and one of metadata has a struct to be filled in.
    if unsafe { extension.as_ref() }.is_some_and(|extension| extension.kind == METADATA) {
        // SAFETY: as above.
        unsafe {
            let metadata = &mut *(*extension.cast::<MetadataExtension>()).metadata;
            (metadata.version.major, metadata.version.minor) = (MAJOR, MINOR);
            metadata.traits = 0;
        }
        return std::ptr::null_mut();
    }
    if frame.stage != EXECUTE {
        return std::ptr::null_mut();
    }
    let done = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: in this stage all buffers hold their elements, and only this call uses the results.
        unsafe { step(frame) }
    }));
    let Err(message) = done.unwrap_or_else(|_| Err("internal error of lion_cpu".into())) else {
        return std::ptr::null_mut();
    };
    let message = std::ffi::CString::new(format!("lion_step: {message}")).unwrap_or_default();
    let mut arguments = ErrorArguments {
        size: size_of::<ErrorArguments>(),
        extension: std::ptr::null_mut(),
        message: message.as_ptr(),
        code: INVALID_ARGUMENT,
    };
    // SAFETY: the function copies the message; XLA owns the error.
    unsafe { ((*frame.api).create_error)(&raw mut arguments) }
}

/// # Safety
/// The frame is one of XLA's, in the stage of execution.
unsafe fn step(frame: &CallFrame) -> Result<(), String> {
    // SAFETY: by this function's contract.
    let (arguments, results) = unsafe { (frame.arguments.read()?, frame.results.read()?) };
    let ([parameter, gradient, momentum, rate], [new_parameter, new_momentum]) =
        (&arguments[..], &results[..])
    else {
        return Err(format!(
            "has {} arguments and {} results; expected 4 and 2",
            arguments.len(),
            results.len()
        ));
    };
    // SAFETY: by this function's contract; a scalar's value is of its dtype.
    let attribute = |name: &str| unsafe { frame.attributes.number(name) };
    if rate.dtype != Dtype::F32 || rate.len != 1 {
        return Err("learning_rate is not one float32".into());
    }
    if new_parameter.dtype != parameter.dtype || new_momentum.dtype != momentum.dtype {
        return Err("a result has another dtype than its argument".into());
    }
    if [gradient.len, momentum.len, new_parameter.len, new_momentum.len]
        .iter()
        .any(|len| *len != parameter.len)
    {
        return Err("parameter, gradient and momentum have different numbers of elements".into());
    }
    // SAFETY: the buffer holds one f32.
    let rate = unsafe { rate.data.cast::<f32>().read_unaligned() };
    let words = |error: lion_kernels::Error| error.to_string();
    let mut settings = LionStep::new(rate, attribute("beta_1")?, attribute("beta_2")?).map_err(words)?;
    let decay = attribute("weight_decay")?;
    if decay != 0.0 {
        settings = settings.weight_decay(decay).map_err(words)?;
    }
    // XLA aliases the results to their arguments, and copies an argument that is used later. What it does not is done here.
    for (from, to) in [(parameter, new_parameter), (momentum, new_momentum)] {
        if from.data != to.data {
            // SAFETY: both hold as many elements of one dtype; buffers are apart or the same.
            unsafe { std::ptr::copy(from.data, to.data, from.len * from.dtype.size()) };
        }
    }
    let shared = [new_parameter, new_momentum].iter().any(|it| it.overlaps(gradient));
    // SAFETY: by this function's contract, with the lengths that were checked.
    let (parameter, momentum, gradient) =
        unsafe { (new_parameter.borrow_mut(), new_momentum.borrow_mut(), gradient.borrow()) };
    if shared {
        return Err("the gradient is the parameter or the momentum; expected memory of its own".into());
    }
    let dtypes =
        Dtypes { parameter: parameter.dtype(), gradient: gradient.dtype(), momentum: momentum.dtype() };
    let task = Task::step(settings, StepTensors::in_place(parameter, gradient, momentum)).map_err(words)?;
    let plan = *Profile::load().plan(Operation::Step, dtypes, task.bytes());
    let ran = pool::enter(|| Ok(run(&plan, &mut [task])));
    ran.map_err(|_| "no threads in a forked process".to_string())?.map_err(words)
}

/// A buffer's elements.
struct Elements {
    dtype: Dtype,
    data: *mut u8,
    len: usize,
}

impl Elements {
    fn overlaps(&self, other: &Elements) -> bool {
        let end = |it: &Elements| it.data.addr() + it.len * it.dtype.size();
        self.len > 0 && self.data.addr() < end(other) && other.data.addr() < end(self)
    }

    /// # Safety
    /// The buffer is readable, and is not written meanwhile.
    unsafe fn borrow<'a>(&self) -> TensorRef<'a> {
        match self.len {
            0 => TensorRef::empty(self.dtype),
            // SAFETY: by this function's contract; XLA aligns buffers.
            len => unsafe { TensorRef::from_raw_parts(self.dtype, [self.data.cast_const(); 2], len) },
        }
    }

    /// # Safety
    /// The buffer is writable, and nothing else uses it meanwhile.
    unsafe fn borrow_mut<'a>(&self) -> TensorMut<'a> {
        match self.len {
            0 => TensorMut::empty(self.dtype),
            // SAFETY: by this function's contract; XLA aligns buffers.
            len => unsafe { TensorMut::from_raw_parts(self.dtype, [self.data; 2], len) },
        }
    }
}

/// A list of XLA's, which has no start if it is empty.
///
/// # Safety
/// The list has `len` entries.
unsafe fn list<'a, T>(start: *const T, len: i64) -> &'a [T] {
    match usize::try_from(len) {
        // SAFETY: by this function's contract.
        Ok(len) if len > 0 => unsafe { slice::from_raw_parts(start, len) },
        _ => &[],
    }
}

impl Buffers {
    /// # Safety
    /// The lists and buffers live, as XLA says of a frame's.
    unsafe fn read(&self) -> Result<Vec<Elements>, String> {
        // SAFETY: by this function's contract.
        let (kinds, buffers) = unsafe { (list(self.kinds, self.len), list(self.buffers, self.len)) };
        if kinds.iter().any(|kind| *kind != BUFFER) {
            return Err("an argument or result is no buffer".into());
        }
        let elements = |buffer: &*const Buffer| {
            // SAFETY: by this function's contract.
            let (buffer, sides) = unsafe { (&**buffer, list((**buffer).sides, (**buffer).rank)) };
            let dtype = match buffer.dtype {
                F32 => Dtype::F32,
                10 => Dtype::F16,
                16 => Dtype::BF16,
                other => return Err(format!("XLA's dtype {other} is not float32, float16 or bfloat16")),
            };
            let len = sides.iter().map(|side| *side as usize).product::<usize>();
            if len > 0 && !buffer.data.addr().is_multiple_of(dtype.size()) {
                return Err("a buffer is not aligned".into());
            }
            Ok(Elements { dtype, data: buffer.data, len })
        };
        buffers.iter().map(elements).collect()
    }
}

impl Attributes {
    /// An attribute of one f32.
    ///
    /// # Safety
    /// The lists and values live, as XLA says of a frame's.
    unsafe fn number(&self, wanted: &str) -> Result<f32, String> {
        // SAFETY: by this function's contract.
        unsafe {
            let kinds = list(self.kinds, self.len);
            let names = list(self.names, self.len).iter().zip(list(self.values, self.len));
            for (kind, (name, value)) in kinds.iter().zip(names) {
                let name = slice::from_raw_parts((**name).start, (**name).len);
                if name == wanted.as_bytes() && *kind == SCALAR && (**value).dtype == F32 {
                    return Ok((**value).value.cast::<f32>().read_unaligned());
                }
            }
        }
        Err(format!("{wanted} is not given as a float32"))
    }
}
