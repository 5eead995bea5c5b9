//! `lion checkpoint`: merges and splits sharded checkpoints, which have one file for each rank of a run.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use lion_distributed::checkpoint;

use crate::error::CliError;
use crate::output;

/// Merges a sharded checkpoint into one file, or splits a file into a sharded checkpoint
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Writes a sharded checkpoint as one file: the same file that a single process would have written
    Merge {
        /// The index, which names the files of the ranks
        #[arg(value_name = "INDEX")]
        index: PathBuf,
        /// The checkpoint to write
        #[arg(long, value_name = "FILE.safetensors")]
        output: PathBuf,
    },
    /// Writes a checkpoint as an index and one file for each rank
    Split {
        /// The checkpoint, which must hold the parameters
        #[arg(value_name = "FILE.safetensors")]
        file: PathBuf,
        /// The number of ranks; a run can continue from the result on any other number too
        #[arg(long, value_name = "N")]
        ranks: NonZeroUsize,
        /// The index to write; its name must have an extension. Replaces an existing index and removes its files
        #[arg(long, value_name = "INDEX")]
        output: PathBuf,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), CliError> {
    match &arguments.command {
        Command::Merge { index, output } => {
            output::check(output)?;
            Ok(checkpoint::merge(index, output)?)
        }
        Command::Split { file, ranks, output } => {
            output::check(output)?;
            Ok(checkpoint::split(file, ranks.get(), output)?)
        }
    }
}
