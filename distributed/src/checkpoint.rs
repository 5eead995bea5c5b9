//! Sharded checkpoints: a file for each rank, and an index whose replacement is the commit.
//!
//! An index `RUN.json` names the files `RUN-<iterations>-<run>-<rank>-of-<ranks>.safetensors` beside it. Each is a
//! checkpoint of [`lion::checkpoint`], format version 2: the parameters and the state of the elements that one rank owned. A
//! save gives its files a new `run`, 16 random hexadecimal digits, which is in the names, in the files' metadata and in
//! the index. So a save never touches a file of an earlier one:
//!
//! 1. Each rank writes its file, and brings it to the disk.
//! 2. When all have, rank 0 replaces the index: a temporary file, brought to the disk and renamed. From the rename on the
//!    new checkpoint is the one that there is.
//! 3. Rank 0 removes the files of the index's earlier runs, and what killed savers have left.
//!
//! A process killed at any moment leaves the old index with its files, or the new one. All ranks must see one folder.
//!
//! Any number of ranks can go on from a checkpoint: each reads the elements that it owns, from the files that have them.

mod convert;
mod files;
mod index;

pub(crate) use convert::check_run;
pub use convert::{merge, split};
pub(crate) use files::{Run, sweep};
pub use index::{Index, IndexedFile, IndexedVariable};

/// The key of a file's metadata that has the run.
pub(crate) const RUN_KEY: &str = "run";
