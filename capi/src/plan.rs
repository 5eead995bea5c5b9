//! Plans: how the work of a call is split and where it runs. Results do not depend on them.

use std::ffi::c_char;

use lion::{Backend, Plan, Profile};
use lion_autotune::Overrides;

use crate::optimizer::{LionOptimizer, call};
use crate::status::{Failure, LionStatus};
use crate::structs::{self, Struct};

/// How the work of a call is split and where it runs. A field of zero is taken from the profile that `lion tune` has written
/// for this machine, or else from the defaults. Results do not depend on any field.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionPlan {
    /// `sizeof(LionPlan)`.
    pub struct_size: usize,
    /// The instruction set: "scalar", "avx2", "avx512", "avx512bf16", "neon", or "auto" for the fastest on this machine.
    pub isa: *const c_char,
    /// The largest number of threads that share a call.
    pub threads: usize,
    /// Elements of a chunk of work, in whole blocks of 4,096.
    pub chunk_elements: usize,
    /// A call whose tensors have fewer bytes stays on the calling thread. If this is given, one plan holds for all work, and
    /// no profile is read.
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
#[inline]
pub(crate) unsafe fn read(at: *const LionPlan) -> Result<Option<Chosen>, Box<Failure>> {
    // SAFETY: by this function's contract.
    if at.is_null() { Ok(None) } else { unsafe { read_given(at).map(Some) } }
}

/// # Safety
/// As for [`read`].
pub(crate) unsafe fn read_given(at: *const LionPlan) -> Result<Chosen, Box<Failure>> {
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
    Ok(Chosen { overrides, parallel_threshold: given(plan.parallel_threshold) })
}

impl Chosen {
    pub(crate) fn profile(&self) -> Profile {
        let profile = match self.parallel_threshold {
            Some(bytes) => Profile::fixed(Plan::new(Backend::best()).parallel_threshold(bytes)),
            None => Profile::load(),
        };
        profile.overridden(&self.overrides)
    }

    /// The plan for one kind of work, given the profile's.
    pub(crate) fn plan(&self, found: Plan) -> Plan {
        let plan = match self.parallel_threshold {
            Some(bytes) => Plan::new(Backend::best()).parallel_threshold(bytes),
            None => found,
        };
        self.overrides.applied(plan)
    }
}

/// Sets how the work of calls is split and where it runs, from the next call on. Results do not depend on it. Null for the
/// profile that `lion tune` has written on this machine, or else the defaults.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `plan` is null or readable for the size that it says;
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
