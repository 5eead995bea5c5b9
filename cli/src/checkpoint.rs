//! `lion checkpoint`: sharded checkpoints, whose files are those of the ranks of a run.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use lion_distributed::checkpoint;

use crate::failure::Failure;
use crate::output;

/// Makes one file of a sharded checkpoint, and the other way.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Writes a sharded checkpoint as one file, the one that one process would have written
    Merge {
        /// The index, which names the files of the ranks
        #[arg(value_name = "INDEX")]
        index: PathBuf,
        /// Where the checkpoint goes
        #[arg(long, value_name = "FILE.safetensors")]
        output: PathBuf,
    },
    /// Writes a checkpoint as a file for each of several ranks, beside an index
    Split {
        /// The checkpoint, with its parameters
        #[arg(value_name = "FILE.safetensors")]
        file: PathBuf,
        /// The number of ranks; a run goes on from the result on any other number too
        #[arg(long, value_name = "N")]
        ranks: NonZeroUsize,
        /// Where the index goes, whose name has an extension; an old one is replaced, and its files are removed
        #[arg(long, value_name = "INDEX")]
        output: PathBuf,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
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
