//! What the tests of the C ABI share: it is called as C does.

#![allow(unsafe_code, dead_code)]

use std::ffi::{CStr, CString, c_void};
use std::fs;
use std::path::Path;
use std::ptr;

use lion::checkpoint::Tensor;
use lion::{Dtype, Lion, TensorBuf, TensorMut, TensorRef};
use lion_c::*;

pub(crate) fn last_error() -> String {
    // SAFETY: the library's text, which ends with a zero.
    unsafe { CStr::from_ptr(lion_last_error()) }.to_str().expect("UTF-8").into()
}

#[track_caller]
pub(crate) fn ok(status: LionStatus) {
    assert_eq!(status, LION_OK, "{}", last_error());
}

/// That a call failed so, with this message.
#[track_caller]
pub(crate) fn refused(status: LionStatus, expected: LionStatus, message: &str) {
    assert_eq!((status, last_error().as_str()), (expected, message));
}

pub(crate) fn text(text: &str) -> CString {
    CString::new(text).expect("no zero within")
}

pub(crate) fn dtype(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F32 => LION_F32,
        Dtype::F16 => LION_F16,
        Dtype::BF16 => LION_BF16,
        other => panic!("no tensor of a program is {other}"),
    }
}

/// An optimizer that is freed at the end.
pub(crate) struct Optimizer(pub(crate) *mut LionOptimizer);

impl Optimizer {
    pub(crate) fn new(options: Option<&LionOptions>) -> Self {
        let mut made = ptr::null_mut();
        // SAFETY: the options are a struct of the right size, and the result is writable.
        ok(unsafe { lion_new(options.map_or(ptr::null(), ptr::from_ref), &raw mut made) });
        Optimizer(made)
    }

    pub(crate) fn from_config(json: &str) -> Self {
        let (json, mut made) = (text(json), ptr::null_mut());
        // SAFETY: a text, and a result that is writable.
        ok(unsafe { lion_new_from_config(json.as_ptr(), &raw mut made) });
        Optimizer(made)
    }

    pub(crate) fn register(
        &self,
        name: &str,
        shape: &[usize],
        of: Dtype,
        options: &LionVariableOptions,
    ) -> LionVariable {
        let (name, mut id) = (text(name), 0);
        // SAFETY: all of it is readable, and the result is writable.
        let status = unsafe {
            lion_register(self.0, name.as_ptr(), shape.as_ptr(), shape.len(), dtype(of), options, &raw mut id)
        };
        ok(status);
        id
    }

    pub(crate) fn apply(&self, updates: &[LionUpdate]) -> LionStatus {
        // SAFETY: the tests give tensors with the memory that the updates say.
        unsafe { lion_apply(self.0, updates.as_ptr(), updates.len()) }
    }

    pub(crate) fn save(&self, path: &Path, parameters: &[LionUpdate]) -> LionStatus {
        let path = text(path.to_str().expect("UTF-8"));
        // SAFETY: as in `apply`.
        unsafe { lion_save(self.0, path.as_ptr(), parameters.as_ptr(), parameters.len()) }
    }

    pub(crate) fn load(&self, path: &Path, parameters: &[LionUpdate]) -> LionStatus {
        let path = text(path.to_str().expect("UTF-8"));
        // SAFETY: as in `apply`.
        unsafe { lion_load(self.0, path.as_ptr(), parameters.as_ptr(), parameters.len()) }
    }

    pub(crate) fn metrics(&self) -> LionMetrics {
        let mut metrics = METRICS;
        // SAFETY: a struct of the right size.
        ok(unsafe { lion_metrics(self.0, &raw mut metrics) });
        metrics
    }
}

impl Drop for Optimizer {
    fn drop(&mut self) {
        // SAFETY: the optimizer is not used any more.
        ok(unsafe { lion_free(self.0) });
    }
}

pub(crate) const UPDATE: LionUpdate = LionUpdate {
    struct_size: size_of::<LionUpdate>(),
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

pub(crate) const VARIABLE: LionVariableOptions = LionVariableOptions {
    struct_size: size_of::<LionVariableOptions>(),
    momentum_dtype: 0,
    exclude_from_weight_decay: 0,
    overwrite_with_gradient: 0,
    nearest_rounding: 0,
    shard_start: 0,
    shard_end: 0,
    group: 0,
    constraint: ptr::null(),
};

pub(crate) const METRICS: LionMetrics = LionMetrics {
    struct_size: size_of::<LionMetrics>(),
    outcome: 0,
    known: 0,
    learning_rate: 0.0,
    loss_scale: 0.0,
    gradient_norm: 0.0,
    clipped_norm: 0.0,
    clipped: 0,
    next_learning_rate: 0.0,
    next_loss_scale: 0.0,
    reserved: 0,
    non_finite: 0,
    iterations: 0,
};

pub(crate) fn options() -> LionOptions {
    let mut options = std::mem::MaybeUninit::uninit();
    // SAFETY: the function fills all of it.
    unsafe {
        ok(lion_options_init(options.as_mut_ptr(), size_of::<LionOptions>()));
        options.assume_init()
    }
}

pub(crate) fn address(tensor: TensorRef<'_>) -> *const c_void {
    tensor.as_bytes(0).expect("a stream").as_ptr().cast()
}

/// An update of a variable, in place.
pub(crate) fn update(
    variable: LionVariable,
    parameter: &mut TensorMut<'_>,
    gradient: Option<TensorRef<'_>>,
) -> LionUpdate {
    LionUpdate {
        variable,
        len: parameter.len(),
        parameter_dtype: dtype(parameter.dtype()),
        parameter: parameter.as_bytes_mut(0).expect("a stream").as_mut_ptr().cast(),
        gradient: gradient.map_or(ptr::null(), address),
        gradient_dtype: gradient.map_or(0, |gradient| dtype(gradient.dtype())),
        ..UPDATE
    }
}

/// What the Rust library writes, with the parameters.
pub(crate) fn checkpoint(optimizer: &Lion, parameters: &[TensorBuf], to: &Path) -> Vec<u8> {
    let mut checkpoint = optimizer.checkpoint().expect("no open step");
    for (variable, parameter) in checkpoint.variables.iter_mut().zip(parameters) {
        variable.parameter = Some(Tensor::from(parameter.to_ref()));
    }
    checkpoint.write(to).expect("written");
    fs::read(to).expect("read")
}

/// What the C library writes, with the parameters.
pub(crate) fn saved(optimizer: &Optimizer, parameters: &mut [TensorBuf], to: &Path) -> Vec<u8> {
    ok(optimizer.save(to, &updates(parameters, |_| None)));
    fs::read(to).expect("read")
}

/// An update of each variable, which are numbered in order.
pub(crate) fn updates<'a>(
    parameters: &mut [TensorBuf],
    gradient: impl Fn(usize) -> Option<TensorRef<'a>>,
) -> Vec<LionUpdate> {
    let of = |(index, parameter): (usize, &mut TensorBuf)| {
        update(index as LionVariable, &mut parameter.to_mut(), gradient(index))
    };
    parameters.iter_mut().enumerate().map(of).collect()
}
