//! A step for callers that keep the momentum themselves.

use std::ffi::c_void;
use std::sync::OnceLock;

use lion::{Error, Profile};
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
    /// The parameter, which the step moves.
    pub parameter: *mut c_void,
    /// The gradient.
    pub gradient: *const c_void,
    /// The momentum, which the step moves; zero before the first step.
    pub momentum: *mut c_void,
    /// The elements of each tensor.
    pub len: usize,
    /// The dtype of `parameter` and `source`: `LION_F32`, `LION_F16` or `LION_BF16`.
    pub parameter_dtype: u32,
    /// The gradient's dtype, any.
    pub gradient_dtype: u32,
    /// The momentum's dtype, any.
    pub momentum_dtype: u32,
    /// The dtype of `copy`; not looked at without one.
    pub copy_dtype: u32,
    /// The parameter is read from here and written to `parameter`. Null if it is moved in place.
    pub source: *const c_void,
    /// The parameter, as it is stored after the step, is also written here. Null for no copy.
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
    /// Checks what can be seen of the tensors. `spans` notes their memory, in a call of several.
    ///
    /// # Safety
    /// The tensors have the memory that the length and dtypes say, which nothing else uses while the task lives.
    #[inline(always)]
    unsafe fn checked_task<'a>(
        &self,
        step: LionStep,
        spans: Option<(&mut Spans, usize)>,
    ) -> Result<Task<'a>, Box<Failure>> {
        let len = self.len;
        let parameter = Raw::new(PARAMETER, self.parameter, self.parameter_dtype, len)?;
        let gradient = Raw::new(GRADIENT, self.gradient, self.gradient_dtype, len)?;
        let momentum = Raw::new(MOMENTUM, self.momentum, self.momentum_dtype, len)?;
        parameter.check_apart(&gradient)?;
        momentum.check_apart(&parameter)?;
        momentum.check_apart(&gradient)?;
        let (mut source, mut copy) = (None, None);
        if !self.source.is_null() {
            let raw = Raw::new(SOURCE, self.source, self.parameter_dtype, len)?;
            // The same memory is the step in place.
            if !raw.is_same_memory_as(&parameter) {
                parameter.check_apart(&raw)?;
                momentum.check_apart(&raw)?;
                source = Some(raw);
            }
        }
        if !self.copy.is_null() {
            let raw = Raw::new(COPY, self.copy, self.copy_dtype, len)?;
            for other in [&parameter, &gradient, &momentum].into_iter().chain(&source) {
                raw.check_apart(other)?;
            }
            copy = Some(raw);
        }
        if let Some((spans, index)) = spans {
            [&parameter, &momentum].into_iter().chain(&copy).for_each(|raw| spans.writes(index, raw));
            [&gradient].into_iter().chain(&source).for_each(|raw| spans.reads(index, raw));
        }
        // SAFETY: the addresses have been checked; the rest is this function's contract.
        let tensors = unsafe {
            let (to, momentum) = (parameter.tensor_mut(), momentum.tensor_mut());
            let tensors = match source {
                Some(source) => {
                    StepTensors::out_of_place(source.tensor_ref(), to, gradient.tensor_ref(), momentum)
                }
                None => StepTensors::in_place(to, gradient.tensor_ref(), momentum),
            };
            match copy {
                Some(copy) => tensors.copy(copy.tensor_mut()),
                None => tensors,
            }
        };
        Ok(Task::step(step, tensors)?)
    }
}

/// The step that options ask for.
fn step_of(options: &LionOptions) -> Result<LionStep, Box<Failure>> {
    if !options.json.is_null() {
        let message = "json is given; expected null, as lion_step has the options of the fields alone";
        return Err(Failure::new(LION_ERROR_UNSUPPORTED, message));
    }
    let LionOptions { learning_rate, beta_1, beta_2, weight_decay, .. } = *options;
    let wanted = [learning_rate, beta_1, beta_2, weight_decay];
    // Rounding follows the host's floating-point state.
    let [learning_rate, beta_1, beta_2, decay] = with_ieee_state(|| wanted.map(|value| value as f32));
    let step = LionStep::new(learning_rate, beta_1, beta_2)?;
    Ok(if weight_decay == LION_OFF { step } else { step.weight_decay(decay)? })
}

/// The profile of this process.
fn profile() -> &'static Profile {
    static LOADED: OnceLock<Profile> = OnceLock::new();
    LOADED.get_or_init(Profile::load)
}

/// Runs the tasks as the plan says, or else the profile.
fn run_as(plan: Option<Chosen>, tasks: &mut [Task<'_>]) -> Result<(), Box<Failure>> {
    let Some(first) = tasks.first() else { return Ok(()) };
    let [parameter, gradient, momentum] = first.dtypes();
    let bytes = tasks.iter().map(Task::bytes).fold(0, usize::saturating_add);
    let found = profile().plan(Operation::Step, Dtypes { parameter, gradient, momentum }, bytes);
    let plan = plan.map_or(*found, |plan| plan.plan(*found));
    Ok(run(&plan, tasks)?)
}

/// One step on tensors of the caller's, without an optimizer: the caller keeps the momentum. `options` has the
/// hyperparameters, and may be null for the defaults; its `json` must be null. Threads may call it at the same time, on other
/// tensors: any cut of a tensor into ranges gives the same bits.
///
/// If it returns an error, nothing has been changed. Null, misaligned and overlapping tensors and wrong dtypes are found.
///
/// # Safety
/// `options` is null or readable for the size that it says, and so is its plan. `tensors` are readable, as long as the first
/// one says. Each tensor has the memory that its length and dtype say, is initialised where it is read, and is used by
/// nothing else during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_step(
    options: *const LionOptions,
    tensors: *const LionStepTensors,
    n: usize,
) -> LionStatus {
    silence_panics();
    let work = || {
        // SAFETY: by this function's contract.
        let (options, plan, given) = unsafe {
            let options = structs::read_or_default("options", options)?;
            (options, plan::read(options.plan)?, Array::new("tensors", tensors, n)?)
        };
        let step = step_of(&options)?;
        if let Some([tensors]) = given.as_slice() {
            // SAFETY: by this function's contract.
            let task = unsafe { tensors.checked_task(step, None) };
            return run_as(plan, &mut [task.map_err(|failure| failure.of("tensors", 0))?]);
        }
        let (mut spans, mut tasks) = (Spans::default(), Vec::new());
        let no_memory = |_| Error::OutOfMemory { what: "tasks", elements: given.len() };
        tasks.try_reserve_exact(given.len()).map_err(no_memory)?;
        for (index, tensors) in given.iter().enumerate() {
            // SAFETY: by this function's contract.
            let task = unsafe { tensors?.checked_task(step, Some((&mut spans, index))) };
            tasks.push(task.map_err(|failure| failure.of("tensors", index))?);
        }
        spans.check("tensors")?;
        run_as(plan, &mut tasks)
    };
    guarded(work)
}
