//! Which plan for which work on this machine: a profile that is looked up, and the tuner that measures it.
//!
//! [`Profile::load`] finds the profile of the machine, or what is built in; [`Profile::plan`] is the look-up, of a
//! few nanoseconds. [`Tuner`] measures a machine and makes a [`Document`], the profile as a file. [`measure`] is
//! timing that can be trusted on a machine that others use too.
//!
//! A plan changes the time that a call takes and never a bit of its result. Nothing here prints: warnings go to `log`.

pub mod candidate;
mod case;
mod error;
mod machine;
#[cfg(feature = "tuner")]
pub mod measure;
pub mod profile;
pub mod regular;
pub mod replace;
#[cfg(feature = "tuner")]
pub mod report;
#[cfg(feature = "tuner")]
mod search;
mod text;

pub use case::{Case, Dtypes, Operation, SizeClass};
pub use error::Error;
pub use machine::{Cache, Machine, Microarchitecture};
pub use profile::{Document, Environment, Overrides, Profile, Source};
#[cfg(feature = "tuner")]
pub use search::{
    Finding, Journal, LEAST_GAIN, LEAST_ROUNDS, Level, Progress, Record, Regret, Trial, Tuned, Tuner, verify,
};
