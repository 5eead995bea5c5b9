//! Shared code of the adapters' tests and benchmarks: an allocator that records the largest request, recording and
//! replay of gradients, the options of narrow formats, and the table of step times. Each is a module.

pub mod allocator;
pub mod narrow;
pub mod recording;
pub mod speed;
