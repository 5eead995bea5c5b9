//! `lion replay`: applies the optimizer to recorded gradients.

mod optimizer;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use lion::checkpoint::{Checkpoint, SavedVariable, Tensor};
use lion::options::Value;
use lion::replay::{self, Recording};
use lion::{Backend, Config, Lion, TensorBuf};

use crate::error::CliError;
use crate::output;

/// Applies the optimizer to a recorded run, and writes the resulting parameters and state
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Keras's JSON: get_config(), keras.optimizers.serialize(optimizer), or a model's file that contains its optimizer
    /// (.keras, config.json, get_compile_config(), the training_config of an .h5 file)
    #[arg(long, value_name = "CONFIG")]
    config: PathBuf,
    /// The run, which holds param/<name> and grad/<step>/<name>
    #[arg(long, value_name = "RUN.safetensors")]
    input: PathBuf,
    /// The result to write: a checkpoint. It may replace the file of --state, but no other file that the command reads
    #[arg(long, value_name = "RESULT.safetensors")]
    output: PathBuf,
    /// Continues from a checkpoint: its parameters, momentum and counters replace the run's initial values
    #[arg(long, value_name = "STATE.safetensors")]
    state: Option<PathBuf>,
    /// Sets each parameter to its moving average after the last step
    #[arg(long)]
    finalize: bool,
    /// Excludes variables whose name matches this from weight decay; may be given several times
    #[arg(long, value_name = "REGEX")]
    exclude_from_weight_decay: Vec<String>,
    /// The instruction set: scalar, avx2, avx512, avx512bf16, neon or auto; default: LION_ISA. Affects speed only
    #[arg(long, value_parser = crate::backend)]
    isa: Option<Backend>,
    /// The number of threads. All of them work on tensors of any size, unless --profile or LION_PROFILE names a profile.
    /// Affects speed only
    #[arg(long, value_name = "N", value_parser = crate::threads)]
    threads: Option<NonZeroUsize>,
    /// The chunk size in elements; default: LION_CHUNK. Affects speed only
    #[arg(long, value_name = "N")]
    chunk: Option<NonZeroUsize>,
    /// The profile of this machine, which lion tune writes; default: LION_PROFILE. Affects speed only
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// The format of the momentum; default: the format of each parameter
    #[arg(long, value_name = "f32|f16|bf16|q8", value_parser = |text: &str| option("momentum_dtype", text))]
    momentum_dtype: Option<Value>,
    /// Rounds bf16 parameters stochastically when a step stores them, with this seed
    #[arg(long, value_name = "SEED", value_parser = |text: &str| option("stochastic_rounding", text))]
    stochastic_rounding: Option<Value>,
    /// Keeps the low halves of parameters: bf16 parameters get the precision of f32, and f32 parameters are split
    #[arg(long)]
    split_master: bool,
    /// Decays only elements that the step does not move away from zero
    #[arg(long)]
    cautious_decay: bool,
    /// The factor of weight decay; default: the learning rate
    #[arg(long, value_name = "lr|relative:TO|corrected:TO", value_parser = |text: &str| option("decay_scale", text))]
    decay_scale: Option<Value>,
}

impl Arguments {
    /// Returns the options that are given. They override the config.
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

/// Parses the value of an option. A string needs no quotes, unlike in JSON.
fn option(name: &str, text: &str) -> Result<Value, String> {
    let value = Value::from_json(text).unwrap_or_else(|_| text.into());
    let set = Config::default().set(name, value.clone());
    set.map(|()| value).map_err(|error| error.to_string())
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), CliError> {
    match arguments.threads {
        Some(threads) => crate::pool(threads)?.install(|| replay(arguments)),
        None => replay(arguments),
    }
}

fn replay(arguments: &Arguments) -> Result<(), CliError> {
    let backend = crate::backend_or_env(arguments.isa)?;
    check_output(arguments)?;
    let config = Config::read(&arguments.config)?;
    let recording = Recording::open(&arguments.input)?;
    let mut optimizer = optimizer::build(&config, backend, arguments)?;
    let ids = replay::register(&recording, &mut optimizer)?;
    let mut parameters = match &arguments.state {
        None => replay::initial_parameters(&recording, &mut optimizer, &ids)?,
        Some(path) => resume(path, &recording, &mut optimizer)?,
    };

    let bar = crate::progress(recording.steps(), "{bar:40} {pos}/{len} steps, {eta} left");
    replay::run(&recording, &mut optimizer, &ids, &mut parameters, |calls| bar.set_position(calls as u64))?;
    bar.finish_and_clear();
    if arguments.finalize {
        replay::finalize(&mut optimizer, &ids, &mut parameters)?;
    }

    let mut checkpoint = optimizer.checkpoint()?;
    for (variable, parameter) in checkpoint.variables.iter_mut().zip(&parameters) {
        variable.parameter = Some(Tensor::from(parameter.to_ref()));
    }
    Ok(checkpoint.write(&arguments.output)?)
}

/// Restores a checkpoint, and returns its parameters in the order of the run.
fn resume(path: &Path, recording: &Recording, optimizer: &mut Lion) -> Result<Vec<TensorBuf>, CliError> {
    let checkpoint = Checkpoint::read(path)?;
    optimizer.restore(&checkpoint).map_err(|error| CliError::in_file(path, error))?;
    // Both are sorted by name, and `restore` has checked that the names are the same.
    let saved = checkpoint.variables.into_iter().zip(recording.variables());
    let parameter = |(variable, (name, ..)): (SavedVariable<'static>, (&str, _, _))| match variable.parameter
    {
        Some(Tensor::Owned(values)) if variable.name == name => Ok(values),
        _ => Err(CliError::in_file(path, format_args!("param/{name}: is missing"))),
    };
    saved.map(parameter).collect()
}

/// Checks the output before the run, which may be long.
fn check_output(arguments: &Arguments) -> Result<(), CliError> {
    let path = &arguments.output;
    output::check(path)?;
    // The state is missing here: a run that continues may replace its state.
    let read = [
        ("--config", Some(&arguments.config)),
        ("--input", Some(&arguments.input)),
        ("--profile", arguments.profile.as_ref()),
    ];
    match read.into_iter().find(|(_, read)| read.is_some_and(|read| is_same_file(path, read))) {
        Some((option, _)) => {
            let path = path.display();
            Err(CliError::Usage(format!("--output: {path}: would replace the file of {option}")))
        }
        None => Ok(()),
    }
}

/// Whether both paths lead to the same existing file.
fn is_same_file(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}
