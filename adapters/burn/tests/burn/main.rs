//! One program for all tests but that of allocations: linking burn takes longer than they do.

mod bad_input;
mod clip;
mod learner;
mod network;
mod numbers;
mod records;
mod rounding;
