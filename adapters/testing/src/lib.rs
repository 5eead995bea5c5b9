//! What the adapters' tests and benchmarks share: an allocator that tells how large the requests were, gradients
//! recorded and replayed, the options of narrow formats, and the table of a step's time. Each is a module of its own.

pub mod allocator;
pub mod narrow;
pub mod recording;
pub mod speed;
