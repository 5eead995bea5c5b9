//! `lion replay`: the optimizer on recorded gradients.

mod optimizer;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use lion::checkpoint::{Checkpoint, SavedVariable, Tensor};
use lion::options::Value;
use lion::replay::{self, Recording};
use lion::{Backend, Config, Lion, TensorBuf};

use crate::failure::Failure;
use crate::output;

/// Applies the optimizer to a recorded run, and writes the parameters and the state that it comes to.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Keras's JSON: get_config(), keras.optimizers.serialize(optimizer), or a model's file that has its optimizer in it
    /// (.keras, config.json, get_compile_config(), the training_config of an .h5 file)
    #[arg(long, value_name = "CONFIG")]
    config: PathBuf,
    /// The run: param/<name> and grad/<step>/<name>
    #[arg(long, value_name = "RUN.safetensors")]
    input: PathBuf,
    /// Where the result goes, which is a checkpoint. Of the files that are read only that of --state may be replaced
    #[arg(long, value_name = "RESULT.safetensors")]
    output: PathBuf,
    /// Goes on from a checkpoint: its parameters, momentum and counters take the place of the run's initial values
    #[arg(long, value_name = "STATE.safetensors")]
    state: Option<PathBuf>,
    /// Sets each parameter to its moving average at the end
    #[arg(long)]
    finalize: bool,
    /// No weight decay for variables in whose name this is found; may be given several times
    #[arg(long, value_name = "REGEX")]
    exclude_from_weight_decay: Vec<String>,
    /// The instruction set: scalar, avx2, avx512, neon or auto; without this what LION_ISA says. Changes no bit
    #[arg(long, value_parser = crate::backend)]
    isa: Option<Backend>,
    /// The number of threads, which work on tensors of any size unless --profile or LION_PROFILE names a profile.
    /// Changes no bit
    #[arg(long, value_name = "N", value_parser = crate::threads)]
    threads: Option<NonZeroUsize>,
    /// The number of elements of a piece of work; without this what LION_CHUNK says. Changes no bit
    #[arg(long, value_name = "N")]
    chunk: Option<NonZeroUsize>,
    /// What was measured to be fast on this machine; without this what LION_PROFILE says. Changes no bit
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
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
    /// What weight decay is multiplied by; without this, the learning rate
    #[arg(long, value_name = "lr|relative:TO|corrected:TO", value_parser = |text: &str| option("decay_scale", text))]
    decay_scale: Option<Value>,
}

impl Arguments {
    /// The options that are given, which are stronger than the config.
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

/// The value of an option, if it takes this one. A text need not be quoted as it is in JSON.
fn option(name: &str, text: &str) -> Result<Value, String> {
    let value = Value::from_json(text).unwrap_or_else(|_| text.into());
    let set = Config::default().set(name, value.clone());
    set.map(|()| value).map_err(|error| error.to_string())
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match arguments.threads {
        Some(threads) => crate::pool(threads)?.install(|| replay(arguments)),
        None => replay(arguments),
    }
}

fn replay(arguments: &Arguments) -> Result<(), Failure> {
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

/// Takes the place of the run's beginning, and gives the parameters in the order of the run.
fn resume(path: &Path, recording: &Recording, optimizer: &mut Lion) -> Result<Vec<TensorBuf>, Failure> {
    let checkpoint = Checkpoint::read(path)?;
    optimizer.restore(&checkpoint).map_err(|error| Failure::in_file(path, error))?;
    // Both are sorted by name, and restoring has found that the names are the same.
    let saved = checkpoint.variables.into_iter().zip(recording.variables());
    let parameter = |(variable, (name, ..)): (SavedVariable<'static>, (&str, _, _))| match variable.parameter
    {
        Some(Tensor::Owned(values)) if variable.name == name => Ok(values),
        _ => Err(Failure::in_file(path, format_args!("param/{name}: is missing"))),
    };
    saved.map(parameter).collect()
}

/// Better now than after a long run.
fn check_output(arguments: &Arguments) -> Result<(), Failure> {
    let path = &arguments.output;
    output::check(path)?;
    // The state is no such file: a run that goes on may write where it came from.
    let read = [
        ("--config", Some(&arguments.config)),
        ("--input", Some(&arguments.input)),
        ("--profile", arguments.profile.as_ref()),
    ];
    match read.into_iter().find(|(_, read)| read.is_some_and(|read| is_same_file(path, read))) {
        Some((option, _)) => {
            let path = path.display();
            Err(Failure::Usage(format!("--output: {path}: would replace the file of {option}")))
        }
        None => Ok(()),
    }
}

/// Whether both names lead to one file that is there.
fn is_same_file(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}
