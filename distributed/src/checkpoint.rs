//! Sharded checkpoints: a file for each rank, and an index whose replacement is the commit.
//!
//! An index `RUN.json` names the files `RUN-<iterations>-<run>-<rank>-of-<ranks>.safetensors` beside it. Each is a
//! checkpoint of [`lion::checkpoint`], format version 2: the parameters and the state of the elements that one rank owned. A
//! save has a new `run`, 16 random hexadecimal digits. It is in the files' names, in their metadata and in the index. So a
//! save never touches a file of an earlier save:
//!
//! 1. Each rank writes its file, and syncs it to the disk.
//! 2. When all ranks have done so, rank 0 replaces the index: it writes a temporary file, syncs and renames it. The rename
//!    commits the new checkpoint.
//! 3. Rank 0 removes the files of the index's earlier runs, and files that killed processes have left.
//!
//! A process killed at any moment leaves either the old index with its files, or the new one. All ranks must see one
//! folder.
//!
//! Any number of ranks can restore a checkpoint: each rank reads the elements that it owns, from the files that have them.

mod convert;
mod files;
mod index;

pub(crate) use convert::check_run;
pub use convert::{merge, split};
pub(crate) use files::{Run, sweep};
pub use index::{Index, IndexedFile, IndexedVariable};

/// The key of the run in a file's metadata.
pub(crate) const RUN_KEY: &str = "run";
