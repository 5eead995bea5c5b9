//! All tests except the allocation test, in one program, because linking burn takes longer than the tests.

mod bad_input;
mod clip;
mod learner;
mod network;
mod numbers;
mod records;
mod rounding;
