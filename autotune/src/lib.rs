//! Plans for the kernels: profiles, and the tuner that measures a machine.
//!
//! [`Profile::load`] finds the profile of this machine, or built-in defaults. [`Profile::plan`] looks a plan up in a few
//! nanoseconds.
//!
//! With the feature `tuner`, `Tuner` measures a machine and makes a [`Document`], which is a profile as a file. The module
//! `measure` times work robustly on a shared, noisy machine. The module `report` writes tables and an HTML page.
//!
//! A plan affects speed only, never results. Nothing here prints: warnings go to `log`.

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
pub mod text;

pub use case::{Case, Dtypes, Operation, SizeClass};
pub use error::Error;
pub use machine::{Cache, Machine, Microarchitecture};
pub use profile::{Document, Environment, Overrides, Profile, Source};
#[cfg(feature = "tuner")]
pub use search::{
    CaseResult, Level, MIN_GAIN, MIN_ROUNDS, Measurement, Progress, Regret, Tuner, TuningLog, TuningRecord,
    TuningResult, verify,
};
