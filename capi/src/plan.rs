//! How the work of a call is cut and where it runs. It changes no bit of a result.

use std::ffi::c_char;

use lion::{Backend, Plan, Profile};
use lion_autotune::Overrides;

use crate::optimizer::{LionOptimizer, call};
use crate::status::{Failure, LionStatus};
use crate::structs::{self, Struct};

/// How the work of a call is cut and where it runs. A field of zero leaves it to the profile that `lion tune` has written
/// for this machine, or else to the defaults. No field changes a bit of a result.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionPlan {
    /// `sizeof(LionPlan)`.
    pub struct_size: usize,
    /// The instruction set: "scalar", "avx2", "avx512", "neon", or "auto" for the fastest here.
    pub isa: *const c_char,
    /// The most threads that share a call.
    pub threads: usize,
    /// Elements of a piece of work, in whole blocks of 4,096.
    pub chunk_elements: usize,
    /// Bytes of a call's tensors below which it stays on the calling thread. If it is given, one plan is for all work, and
    /// no profile is looked at.
    pub parallel_threshold: usize,
}

// SAFETY: `repr(C)`, words alone.
unsafe impl Struct for LionPlan {
    const NAME: &'static str = "LionPlan";
    const DEFAULT: Self = LionPlan {
        struct_size: size_of::<Self>(),
        isa: std::ptr::null(),
        threads: 0,
        chunk_elements: 0,
        parallel_threshold: 0,
    };
}

/// A plan of the caller's, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen {
    overrides: Overrides,
    parallel_threshold: Option<usize>,
}

/// Reads a plan, or none if the pointer is null.
///
/// # Safety
/// The pointer is null, or the plan is readable and its text ends with a zero.
pub(crate) unsafe fn read(at: *const LionPlan) -> Result<Option<Chosen>, Box<Failure>> {
    if at.is_null() {
        return Ok(None);
    }
    // SAFETY: by this function's contract.
    let (plan, isa) = unsafe {
        let plan = structs::read("plan", at)?;
        (plan, structs::text_or_none("isa", plan.isa)?)
    };
    let given = |number: usize| Some(number).filter(|&number| number > 0);
    let overrides = Overrides {
        backend: isa.map(Backend::from_name).transpose()?,
        threads: given(plan.threads),
        chunk: given(plan.chunk_elements),
    };
    Ok(Some(Chosen { overrides, parallel_threshold: given(plan.parallel_threshold) }))
}

impl Chosen {
    pub(crate) fn profile(&self) -> Profile {
        let profile = match self.parallel_threshold {
            Some(bytes) => Profile::fixed(Plan::new(Backend::best()).parallel_threshold(bytes)),
            None => Profile::load(),
        };
        profile.overridden(&self.overrides)
    }

    /// The plan of one kind of work, which the profile has as `found`.
    pub(crate) fn plan(&self, found: Plan) -> Plan {
        let plan = match self.parallel_threshold {
            Some(bytes) => Plan::new(Backend::best()).parallel_threshold(bytes),
            None => found,
        };
        self.overrides.applied(plan)
    }
}

/// Sets how the work of calls is cut and where it runs, from the next call on. It changes no bit of a result. Null for the
/// profile that `lion tune` has written on this machine, or else the defaults.
///
/// # Safety
/// As for every function: `optimizer` is of `lion_new` and not freed. `plan` is null or readable for the size that it says;
/// its `isa` ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_set_plan(optimizer: *mut LionOptimizer, plan: *const LionPlan) -> LionStatus {
    let work = |optimizer: &mut crate::optimizer::State| {
        // SAFETY: by this function's contract.
        let plan = unsafe { read(plan)? };
        let profile = plan.map_or_else(Profile::load, |plan| plan.profile());
        Ok(optimizer.lion.set_profile(profile)?)
    };
    // SAFETY: by this function's contract.
    unsafe { call(optimizer, work) }
}
