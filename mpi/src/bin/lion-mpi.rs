//! The `lion-mpi` command, under `mpirun`: `lion-mpi replay` applies the sharded optimizer to one machine's recorded run,
//! with the files of `lion replay`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use lion::options::Value;
use lion::replay::{Gradients, Recording};
use lion::{Builder, Config, Dtype, TensorBuf, VariableId};
use lion_distributed::checkpoint::{merge, split};
use lion_distributed::{Communicator, Settings, Sharded, Update, Variable};
use lion_mpi::MpiCommunicator;

/// The sharded Lion optimizer on the ranks of mpirun.
#[derive(Debug, Parser)]
#[command(name = "lion-mpi", version, about, arg_required_else_help = true)]
enum Command {
    Replay(Replay),
}

/// Applies the optimizer to a recorded run, as `lion replay` does, with its state cut among the ranks. The result is the
/// same file. All ranks must see the folder of the result.
#[derive(Debug, clap::Args)]
struct Replay {
    /// Keras's JSON, or a model's file that has its optimizer in it
    #[arg(long, value_name = "CONFIG")]
    config: PathBuf,
    /// The run: param/<name> and grad/<step>/<name>
    #[arg(long, value_name = "RUN.safetensors")]
    input: PathBuf,
    /// Where the result goes, which is a checkpoint
    #[arg(long, value_name = "RESULT.safetensors")]
    output: PathBuf,
    /// Goes on from a checkpoint
    #[arg(long, value_name = "STATE.safetensors")]
    state: Option<PathBuf>,
    /// Sets each parameter to its moving average at the end
    #[arg(long)]
    finalize: bool,
    /// No weight decay for variables in whose name this is found; may be given several times
    #[arg(long, value_name = "REGEX")]
    exclude_from_weight_decay: Vec<String>,
    /// The format of the momentum; without this, that of each parameter
    #[arg(long, value_name = "f32|f16|bf16|q8", value_parser = |text: &str| option("momentum_dtype", text))]
    momentum_dtype: Option<Value>,
    /// Rounds bf16 parameters at random when a step stores them, drawn from this seed
    #[arg(long, value_name = "SEED", value_parser = |text: &str| option("stochastic_rounding", text))]
    stochastic_rounding: Option<Value>,
    /// Keeps the low halves of parameters: bf16 ones then have f32's bits, and f32 ones are split
    #[arg(long)]
    split_master: bool,
    /// Does not decay elements that the step moves away from zero
    #[arg(long)]
    cautious_decay: bool,
    /// The factor of weight decay; without this, the learning rate
    #[arg(long, value_name = "lr|relative:TO|corrected:TO", value_parser = |text: &str| option("decay_scale", text))]
    decay_scale: Option<Value>,
}

impl Replay {
    /// The options that are given. They override the config's.
    fn options(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let on = |flag: bool| flag.then_some(Value::Bool(true));
        let options = [
            ("momentum_dtype", self.momentum_dtype.clone()),
            ("stochastic_rounding", self.stochastic_rounding.clone()),
            ("split_master", on(self.split_master)),
            ("cautious_decay", on(self.cautious_decay)),
            ("decay_scale", self.decay_scale.clone()),
        ];
        options.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Parses the value of an option and checks it. A text needs no quotes.
fn option(name: &str, text: &str) -> Result<Value, String> {
    let value = Value::from_json(text).unwrap_or_else(|_| text.into());
    Config::default().set(name, value.clone()).map(|()| value).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    // Ends the process itself for --help and bad usage, before MPI is there.
    let Command::Replay(arguments) = Command::parse();
    lion_mpi::run(|communicator| replay(communicator, &arguments))
}

fn replay(communicator: &mut MpiCommunicator, arguments: &Replay) -> Result<(), Box<dyn Error>> {
    let (rank, ranks) = (communicator.rank(), communicator.size());
    let config = Config::read(&arguments.config)?;
    let recording = Recording::open(&arguments.input)?;
    let options = arguments.options();
    let builder = options.fold(Builder::from(config), |builder, (name, value)| builder.set(name, value));
    let patterns = arguments.exclude_from_weight_decay.iter();
    let optimizer = patterns.fold(builder, Builder::exclude_from_weight_decay).build()?;
    // As `lion replay` does, an f32 variable of the run becomes a bf16 one with low halves.
    let splits = optimizer.config().split_master;
    let stored = |dtype| if splits && dtype == Dtype::F32 { Dtype::BF16 } else { dtype };
    let variables: Vec<_> =
        recording.variables().map(|(name, shape, dtype)| Variable::new(name, shape, stored(dtype))).collect();
    let mut sharded = Sharded::new(communicator, optimizer, &variables, Settings::new(ranks))?;
    let ids = sharded.ids().to_vec();
    let mut parameters = recording.parameters()?;
    for ((&id, parameter), variable) in ids.iter().zip(&mut parameters).zip(&variables) {
        if parameter.dtype() != variable.dtype {
            let values = parameter.to_ref().to_f32();
            *parameter = TensorBuf::zeroed(variable.dtype, values.len())?;
            sharded.parameter_from_f32(id, &values, parameter.to_mut())?;
        }
    }
    // Beside the result, where there is room for it.
    let parts = arguments.output.with_extension("parts.json");
    if let Some(state) = &arguments.state {
        let cut = if rank == 0 { split(state, ranks, &parts).map_err(|it| it.to_string()) } else { Ok(()) };
        // The other ranks wait here for rank 0, or end with it.
        cut?;
        sharded.gather_parameters(&mut without_gradients(&ids, &mut parameters))?;
        sharded.restore(&parts, &mut without_gradients(&ids, &mut parameters))?;
    }
    let mut gradients = Gradients::default();
    for call in 0..recording.steps() {
        recording.read_gradients(call, &mut gradients)?;
        // Every rank has the whole run, so nothing is reduced.
        let updates = ids.iter().zip(&mut parameters).enumerate();
        let mut updates: Vec<_> = updates
            .map(|(index, (&id, parameter))| match gradients.get(index) {
                Some(gradient) => Update::averaged(id, parameter.to_mut(), gradient),
                None => Update::without_gradient(id, parameter.to_mut()),
            })
            .collect();
        sharded.apply(&mut updates).map_err(|error| format!("step {call}: {error}"))?;
    }
    if arguments.finalize {
        sharded.finalize_variable_values(&mut without_gradients(&ids, &mut parameters))?;
    }
    sharded.save(&parts, &mut without_gradients(&ids, &mut parameters))?;
    if rank == 0 {
        merge(&parts, &arguments.output)?;
        remove(&parts)?;
    }
    Ok(())
}

fn without_gradients<'a>(ids: &[VariableId], parameters: &'a mut [TensorBuf]) -> Vec<Update<'a>> {
    ids.iter()
        .zip(parameters)
        .map(|(&id, parameter)| Update::without_gradient(id, parameter.to_mut()))
        .collect()
}

/// Removes an index and its files.
fn remove(index: &Path) -> Result<(), Box<dyn Error>> {
    let found = lion_distributed::checkpoint::Index::read(index)?;
    std::fs::remove_file(index)?;
    for file in found.files {
        std::fs::remove_file(index.with_file_name(file.file))?;
    }
    Ok(())
}
