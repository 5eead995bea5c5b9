//! A step without an optimizer, for callers that keep the momentum themselves.

use std::ffi::c_void;
use std::slice;
use std::sync::OnceLock;

use lion::{Dtype, Error, Profile};
use lion_autotune::{Dtypes, Operation};
use lion_kernels::{LionStep, StepTensors, Task, run, with_ieee_state};

use crate::options::{LION_OFF, LionOptions};
use crate::plan::{self, Chosen};
use crate::status::{Failure, LION_ERROR_UNSUPPORTED, LionStatus, guarded, silence_panics};
use crate::structs::{self, Array, Struct};
use crate::tensor::{COPY, GRADIENT, MOMENTUM, PARAMETER, Raw, SOURCE, Spans};

/// The tensors of one step of `lion_step`, all of the same length. Unused fields are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionStepTensors {
    /// `sizeof(LionStepTensors)`.
    pub struct_size: usize,
    /// The parameter, which the step updates.
    pub parameter: *mut c_void,
    /// The gradient.
    pub gradient: *const c_void,
    /// The momentum, which the step updates; zero before the first step.
    pub momentum: *mut c_void,
    /// The number of elements of each tensor.
    pub len: usize,
    /// The dtype of `parameter` and `source`: `LION_F32`, `LION_F16` or `LION_BF16`.
    pub parameter_dtype: u32,
    /// The gradient's dtype, any.
    pub gradient_dtype: u32,
    /// The momentum's dtype, any.
    pub momentum_dtype: u32,
    /// The dtype of `copy`; ignored without a copy.
    pub copy_dtype: u32,
    /// The parameter is read from here and written to `parameter`. Null to update it in place.
    pub source: *const c_void,
    /// The stored parameter after the step is also written here. Null for no copy.
    pub copy: *mut c_void,
}

// SAFETY: `repr(C)`, words and pairs of u32 alone.
unsafe impl Struct for LionStepTensors {
    const NAME: &'static str = "LionStepTensors";
    const DEFAULT: Self = LionStepTensors {
        struct_size: size_of::<Self>(),
        parameter: std::ptr::null_mut(),
        gradient: std::ptr::null(),
        momentum: std::ptr::null_mut(),
        len: 0,
        parameter_dtype: 0,
        gradient_dtype: 0,
        momentum_dtype: 0,
        copy_dtype: 0,
        source: std::ptr::null(),
        copy: std::ptr::null_mut(),
    };
}

impl LionStepTensors {
    /// Checks the tensors. Returns the task and its bytes. `spans` records their memory, in a call with several structs.
    ///
    /// # Safety
    /// The tensors have the memory that the length and dtypes say, which nothing else uses while the task lives.
    #[inline(always)]
    unsafe fn checked_task<'a>(
        &self,
        step: LionStep,
        spans: Option<(&mut Spans, usize)>,
    ) -> Result<(Task<'a>, [Dtype; 3], usize), Box<Failure>> {
        let len = self.len;
        let parameter = Raw::new(PARAMETER, self.parameter, self.parameter_dtype, len)?;
        let gradient = Raw::new(GRADIENT, self.gradient, self.gradient_dtype, len)?;
        let momentum = Raw::new(MOMENTUM, self.momentum, self.momentum_dtype, len)?;
        parameter.check_apart(&gradient)?;
        momentum.check_apart(&parameter)?;
        momentum.check_apart(&gradient)?;
        let mut bytes = parameter.bytes().saturating_add(gradient.bytes()).saturating_add(momentum.bytes());
        let extras = if self.source.is_null() && self.copy.is_null() {
            None
        } else {
            let extras = self.checked_extras(parameter, gradient, momentum)?;
            bytes = extras.iter().flatten().fold(bytes, |bytes, raw| bytes.saturating_add(raw.bytes()));
            Some(extras)
        };
        if let Some((spans, index)) = spans {
            let [source, copy] = extras.unwrap_or_default();
            [parameter, momentum].iter().chain(&copy).for_each(|raw| spans.writes(index, raw));
            [gradient].iter().chain(&source).for_each(|raw| spans.reads(index, raw));
        }
        // SAFETY: the addresses have been checked; the rest is this function's contract.
        let tensors = unsafe {
            let (to, gradient, momentum) =
                (parameter.tensor_mut(), gradient.tensor_ref(), momentum.tensor_mut());
            match extras {
                None => StepTensors::in_place(to, gradient, momentum),
                Some([source, copy]) => {
                    let tensors = match source {
                        Some(source) => {
                            StepTensors::out_of_place(source.tensor_ref(), to, gradient, momentum)
                        }
                        None => StepTensors::in_place(to, gradient, momentum),
                    };
                    match copy {
                        Some(copy) => tensors.copy(copy.tensor_mut()),
                        None => tensors,
                    }
                }
            }
        };
        let dtypes = [parameter, gradient, momentum].map(|raw| raw.dtype());
        Ok((Task::step(step, tensors)?, dtypes, bytes))
    }

    /// Checks the source and the copy, which are as long as the other tensors. A source that is the parameter is none: the
    /// step is then in place.
    #[inline(never)]
    fn checked_extras(
        &self,
        parameter: Raw,
        gradient: Raw,
        momentum: Raw,
    ) -> Result<[Option<Raw>; 2], Box<Failure>> {
        let (mut source, mut copy) = (None, None);
        if !self.source.is_null() {
            let raw = Raw::new(SOURCE, self.source, self.parameter_dtype, self.len)?;
            if !raw.is_same_memory_as(&parameter) {
                parameter.check_apart(&raw)?;
                momentum.check_apart(&raw)?;
                source = Some(raw);
            }
        }
        if !self.copy.is_null() {
            let raw = Raw::new(COPY, self.copy, self.copy_dtype, self.len)?;
            for other in [parameter, gradient, momentum].iter().chain(&source) {
                raw.check_apart(other)?;
            }
            copy = Some(raw);
        }
        Ok([source, copy])
    }
}

/// The hyperparameters of a step.
#[inline(always)]
fn step_of(options: &LionOptions) -> Result<LionStep, Box<Failure>> {
    if !options.json.is_null() {
        let message = "json is given; expected null, as lion_step has the options of the fields alone";
        return Err(Failure::new(LION_ERROR_UNSUPPORTED, message));
    }
    let LionOptions { learning_rate, beta_1, beta_2, weight_decay, .. } = *options;
    let [learning_rate, beta_1, beta_2] = nearest([learning_rate, beta_1, beta_2]);
    let step = LionStep::new(learning_rate, beta_1, beta_2)?;
    if weight_decay == LION_OFF {
        return Ok(step);
    }
    let [weight_decay] = nearest([weight_decay]);
    Ok(step.weight_decay(weight_decay)?)
}

/// Rounds to the nearest f32, ties to even, whatever the host's floating-point state is. For positive numbers in f32's normal
/// range, integer arithmetic is faster than a look at that state.
#[inline(always)]
fn nearest<const N: usize>(values: [f64; N]) -> [f32; N] {
    const LEAST: u64 = (f32::MIN_POSITIVE as f64).to_bits();
    const MOST: u64 = (f32::MAX as f64).to_bits();
    /// The bits of f64's fraction that f32 lacks, and the difference of their exponents' biases.
    const DROPPED: u32 = 29;
    const BIAS: u64 = 1023 - 127;
    let bits = values.map(f64::to_bits);
    if !bits.iter().all(|bits| (LEAST..=MOST).contains(bits)) {
        return nearest_of_any(values);
    }
    bits.map(|bits| {
        let half = (1 << (DROPPED - 1)) - 1 + (bits >> DROPPED & 1);
        f32::from_bits((((bits + half) >> DROPPED) - (BIAS << 23)) as u32)
    })
}

#[cold]
fn nearest_of_any<const N: usize>(values: [f64; N]) -> [f32; N] {
    with_ieee_state(|| values.map(|value| value as f32))
}

/// The profile, loaded by the first call, which also silences panics.
#[inline(always)]
fn profile() -> &'static Profile {
    static LOADED: OnceLock<Profile> = OnceLock::new();
    LOADED.get_or_init(|| {
        silence_panics();
        Profile::load()
    })
}

/// Runs the tasks, of so many bytes, by the caller's plan, or else by the profile.
fn run_as(
    profile: &Profile,
    plan: Option<&Chosen>,
    tasks: &mut [Task<'_>],
    [parameter, gradient, momentum]: [Dtype; 3],
    bytes: usize,
) -> Result<(), Box<Failure>> {
    let found = profile.plan(Operation::Step, Dtypes { parameter, gradient, momentum }, bytes);
    match plan {
        Some(plan) => run(&plan.plan(*found), tasks)?,
        None => run(found, tasks)?,
    }
    Ok(())
}

/// Does one step without an optimizer: the caller keeps the momentum. `options` has the hyperparameters, and may be null for
/// the defaults; its `json` must be null. Several threads may call it at the same time on different tensors. Any split of a
/// tensor into ranges gives the same bits.
///
/// If it returns an error, nothing has changed. It finds null, misaligned and overlapping tensors, and wrong dtypes.
///
/// # Safety
/// `options` is null or readable for the size that it says, and so is its plan. `tensors` is readable for `n` structs, each as
/// long as the first one says. Each tensor has the memory that its length and dtype say, is initialised if it is read, and
/// nothing else uses it during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_step(
    options: *const LionOptions,
    tensors: *const LionStepTensors,
    n: usize,
) -> LionStatus {
    let work = || {
        let profile = profile();
        let read;
        // SAFETY: by this function's contract.
        let options = match unsafe { structs::of_this_version(options) } {
            Some(options) => options,
            None => {
                // SAFETY: by this function's contract.
                read = unsafe { structs::read_or_default("options", options)? };
                &read
            }
        };
        // SAFETY: by this function's contract.
        unsafe { step(profile, options, tensors, n) }
    };
    guarded(work)
}

/// # Safety
/// As for [`lion_step`].
#[inline(never)]
unsafe fn step(
    profile: &Profile,
    options: &LionOptions,
    tensors: *const LionStepTensors,
    n: usize,
) -> Result<(), Box<Failure>> {
    let chosen;
    let plan = if options.plan.is_null() {
        None
    } else {
        // SAFETY: by this function's contract.
        chosen = unsafe { plan::read_given(options.plan)? };
        Some(&chosen)
    };
    // SAFETY: by this function's contract.
    let one = if n == 1 { unsafe { structs::of_this_version(tensors) } } else { None };
    let Some(tensors) = one else {
        // SAFETY: by this function's contract.
        return unsafe { step_many(profile, options, tensors, n, plan) };
    };
    // SAFETY: by this function's contract.
    match unsafe { tensors.checked_task(step_of(options)?, None) } {
        // Not moved: a task is large.
        Ok((mut task, dtypes, bytes)) => run_as(profile, plan, slice::from_mut(&mut task), dtypes, bytes),
        Err(failure) => Err(failure.of("tensors", 0)),
    }
}

/// # Safety
/// As for [`lion_step`].
#[inline(never)]
unsafe fn step_many(
    profile: &Profile,
    options: &LionOptions,
    tensors: *const LionStepTensors,
    n: usize,
    plan: Option<&Chosen>,
) -> Result<(), Box<Failure>> {
    // SAFETY: by this function's contract.
    let given = unsafe { Array::new("tensors", tensors, n)? };
    let step = step_of(options)?;
    let (mut spans, mut tasks, mut bytes) = (Spans::default(), Vec::new(), 0_usize);
    let no_memory = |_| Error::OutOfMemory { what: "tasks", elements: given.len() };
    tasks.try_reserve_exact(given.len()).map_err(no_memory)?;
    for (index, tensors) in given.iter().enumerate() {
        // SAFETY: by this function's contract.
        let task = unsafe { tensors?.checked_task(step, Some((&mut spans, index))) };
        let (task, _, more) = task.map_err(|failure| failure.of("tensors", index))?;
        tasks.push(task);
        bytes = bytes.saturating_add(more);
    }
    spans.check("tensors")?;
    let Some(first) = tasks.first() else { return Ok(()) };
    let dtypes = first.dtypes();
    run_as(profile, plan, &mut tasks, dtypes, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_the_rounding_of_the_hardware() {
        let mut rng = fastrand::Rng::with_seed(7);
        let same = |value: f64| {
            let ([found, .., last], expected) = (nearest([value, 1.0, 0.1, 0.5]), value as f32);
            assert_eq!(last, 0.5);
            assert!(found.to_bits() == expected.to_bits() || value.is_nan() && found.is_nan(), "{value:e}");
        };
        let edges = [0.0, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NAN, 1e-45, 1.0, 0.1];
        for edge in edges.map(f64::from) {
            for value in [edge, edge.next_up(), edge.next_down()] {
                same(value);
                same(-value);
            }
        }
        for _ in 0..1_000_000 {
            let value = f64::from(f32::from_bits(rng.u32(..)));
            // Exact, a tie between two, and beside the tie.
            for low in [0, 1 << 28, (1 << 28) - 1, (1 << 28) + 1, rng.u64(..1 << 29)] {
                same(f64::from_bits(value.to_bits() | low));
            }
            same(f64::from_bits(rng.u64(..)));
        }
    }
}
