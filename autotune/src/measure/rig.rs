use std::time::Duration;

use lion_kernels::Plan;

use crate::Error;
use crate::case::Case;

/// Where the tensors of a call are when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caches {
    /// Where the call before left them.
    Warm,
    /// In memory: calls take turns on more tensors than all caches hold.
    Cold,
}

/// What the candidates run on: [`Scratch`](super::Scratch) memory of this machine, or in tests a model of another.
pub trait Rig {
    /// Makes tensors of a case; the calls that follow are for it.
    ///
    /// # Errors
    /// Where there is no memory for them.
    fn prepare(&mut self, case: &Case) -> Result<(), Error>;

    /// Whether a plan gives the reference's bits for the case's operation and formats.
    ///
    /// # Errors
    /// Where the plan does not run at all.
    fn check(&mut self, plan: &Plan) -> Result<bool, Error>;

    /// The time of so many calls with a plan, one after the other.
    ///
    /// # Errors
    /// Where the plan does not run.
    fn calls(&mut self, plan: &Plan, caches: Caches, calls: u32) -> Result<Duration, Error>;

    /// The time of so many passes that move a call's bytes and do nothing else, cut by the same plan. `None` where
    /// there is no such pass for the case's operation.
    ///
    /// # Errors
    /// Where the plan does not run.
    fn limit(&mut self, plan: &Plan, caches: Caches, calls: u32) -> Result<Option<Duration>, Error>;

    /// The time since some moment: what the tuner's time limit is counted by.
    fn now(&self) -> Duration;

    /// The least time of a sample: far above what the clock can tell apart.
    fn floor(&self) -> Duration;
}
