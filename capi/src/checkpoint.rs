//! Checkpoints: safetensors files, which the Rust library and `lion replay` read and write too.

use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};

use lion::VariableId;
use lion::checkpoint::{Checkpoint, Tensor};

use crate::metrics::LionMetrics;
use crate::optimizer::{LionOptimizer, State, call};
use crate::status::{Failure, LION_ERROR_STATE, LionStatus};
use crate::structs::{self, Array, Struct};
use crate::tensor::Raw;
use crate::update::LionUpdate;
use crate::variable::id;

/// A path of the caller's: bytes on Unix, UTF-8 on other systems.
///
/// # Safety
/// The pointer is null, or a text that ends with a zero.
unsafe fn path(at: *const c_char) -> Result<PathBuf, Box<Failure>> {
    #[cfg(unix)]
    {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        structs::check_pointer("path", at)?;
        // SAFETY: not null, and by this function's contract.
        Ok(Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(at) }.to_bytes())).into())
    }
    #[cfg(not(unix))]
    {
        // SAFETY: by this function's contract.
        Ok(Path::new(unsafe { structs::text("path", at)? }).into())
    }
}

/// The caller's parameters for a checkpoint.
///
/// # Safety
/// There are none, or so many structs are readable, each as long as the first one says.
unsafe fn parameters(
    optimizer: &State,
    updates: *const LionUpdate,
    n: usize,
) -> Result<Vec<(VariableId, Raw)>, Box<Failure>> {
    // SAFETY: by this function's contract.
    let given = unsafe { Array::new("parameters", updates, n)? };
    given
        .iter()
        .enumerate()
        .map(|(index, update)| {
            let update = update?;
            let parameter = update.whole_parameter(&optimizer.lion);
            Ok((id(update.variable), parameter.map_err(|failure| failure.of("parameters", index))?))
        })
        .collect()
}

/// Writes a checkpoint: the optimizer's state, and the given parameters, if any. Of each, only `variable`, `parameter`,
/// `parameter_dtype` and `len` are used. The file is replaced atomically. Groups and constraints are not part of it.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `path` is null or ends with a zero. `parameters` is readable for `n` structs,
/// each as long as the first one says. Each parameter has the memory that its length and dtype say, and nothing writes it
/// during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_save(
    optimizer: *mut LionOptimizer,
    path: *const c_char,
    parameters: *const LionUpdate,
    n: usize,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        // SAFETY: by this function's contract.
        let (path, given) = unsafe { (self::path(path)?, self::parameters(optimizer, parameters, n)?) };
        let mut checkpoint = optimizer.lion.checkpoint()?;
        for (variable, parameter) in given {
            // They are in the order of registration.
            if let Some(saved) = checkpoint.variables.get_mut(variable.index()) {
                // SAFETY: the parameter has been checked; the rest is this function's contract.
                saved.parameter = Some(Tensor::Borrowed(unsafe { parameter.tensor_ref() }));
            }
        }
        Ok(checkpoint.write(path)?)
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Restores the state from a checkpoint of the same variables, and reads the given parameters from it, if any. The options
/// stay those of this optimizer.
///
/// If it returns an error, nothing has changed.
///
/// # Safety
/// As for `lion_save`, and each parameter is writable, and nothing else uses it during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_load(
    optimizer: *mut LionOptimizer,
    path: *const c_char,
    parameters: *const LionUpdate,
    n: usize,
) -> LionStatus {
    let work = |optimizer: &mut State| {
        // SAFETY: by this function's contract.
        let (path, given) = unsafe { (self::path(path)?, self::parameters(optimizer, parameters, n)?) };
        let checkpoint = Checkpoint::read(path)?;
        // Checked before anything changes.
        for (variable, _) in &given {
            saved(optimizer, &checkpoint, *variable)?;
        }
        optimizer.lion.restore(&checkpoint)?;
        optimizer.statistics = None;
        optimizer.metrics = LionMetrics::DEFAULT;
        for (variable, parameter) in given {
            let (tensor, held) = saved(optimizer, &checkpoint, variable)?;
            // SAFETY: the parameter has been checked; the rest is this function's contract.
            let mut parameter = unsafe { parameter.tensor_mut() };
            let copied = tensor.range(held).is_ok_and(|tensor| parameter.copy_from(tensor));
            debug_assert!(copied, "restoring has compared shapes and formats");
        }
        Ok(())
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}

/// Returns a variable's parameter in a checkpoint, and the part of it that the optimizer holds.
fn saved<'c>(
    optimizer: &State,
    checkpoint: &'c Checkpoint<'_>,
    variable: VariableId,
) -> Result<(lion::TensorRef<'c>, std::ops::Range<usize>), Box<Failure>> {
    let view = optimizer.lion.view(variable);
    let (name, held) = view.map_or(("", 0..0), |view| (view.name, view.held.clone()));
    let found = checkpoint.variables.iter().find(|saved| saved.name == name);
    let Some((saved, parameter)) = found.and_then(|saved| Some((saved, saved.parameter.as_ref()?))) else {
        return Err(Failure::new(LION_ERROR_STATE, format!("param/{name}: is missing")));
    };
    let start = held.start.saturating_sub(saved.shard.as_ref().map_or(0, |shard| shard.start));
    Ok((parameter.to_ref(), start..start.saturating_add(held.len())))
}
