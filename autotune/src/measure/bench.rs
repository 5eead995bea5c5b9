use std::time::Duration;

use lion_kernels::Plan;

use crate::Error;
use crate::case::Case;

/// The state of the caches at the start of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caches {
    /// As the previous call on the same tensors left them.
    Warm,
    /// Without the tensors of the call: calls rotate over more tensors than all caches hold.
    Cold,
}

/// Runs and times plans. [`MachineBench`](super::MachineBench) does that on this machine; tests simulate other machines.
pub trait Bench {
    /// Prepares the tensors of a case. The following calls are for this case.
    ///
    /// # Errors
    /// Returns an error if there is not enough memory.
    fn prepare(&mut self, case: &Case) -> Result<(), Error>;

    /// Returns whether a plan gives the bits of the reference, for the operation and the formats of the case.
    ///
    /// # Errors
    /// Returns an error if the plan does not run.
    fn check(&mut self, plan: &Plan) -> Result<bool, Error>;

    /// Returns the time of `calls` calls with a plan, one after the other.
    ///
    /// # Errors
    /// Returns an error if the plan does not run.
    fn calls(&mut self, plan: &Plan, caches: Caches, calls: u32) -> Result<Duration, Error>;

    /// Returns the bandwidth bound: the time of `calls` passes that move the bytes of a call and do nothing else, with
    /// the same threads and chunks. `None` if there is no such pass for the operation.
    ///
    /// # Errors
    /// Returns an error if the plan does not run.
    fn bandwidth_bound(&mut self, plan: &Plan, caches: Caches, calls: u32)
    -> Result<Option<Duration>, Error>;

    /// Returns the current time, which the tuner's time limit refers to.
    fn now(&self) -> Duration;

    /// Returns the minimum time of a sample, which is far above the resolution of the clock.
    fn min_sample_time(&self) -> Duration;
}
