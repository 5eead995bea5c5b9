//! `lion bench`: times optimizer steps and compares them with the bandwidth bound of this machine.
//!
//! Each line times [`Lion::apply`] and the bandwidth bound in alternation. The bound is a pass over tensors of the same
//! formats, with the same traffic and threads, that does nothing but one bit operation per vector. If a line has one
//! tensor, the bound runs on the memory of that tensor. If it has many, the bound runs on one tensor with the same number
//! of bytes. `--limit` sets the formats of the bound, which then has its own memory: the ratio of a step to the bound of
//! f32 shows what a smaller format saves.
//!
//! [`Lion::apply`]: lion::Lion::apply

mod model;
mod table;
mod work;

use std::num::NonZeroUsize;
use std::time::Duration;

use lion::{Backend, Dtype, Plan};
use lion_autotune::measure::{Calls, Comparison};
use lion_autotune::{Dtypes, Machine, Operation};

use self::model::{Model, Tensors};
use self::table::Table;
use crate::error::CliError;
use crate::interrupt::Interrupt;
use crate::seconds;

/// Times optimizer steps and compares them with the bandwidth bound: the time to move the same bytes through memory
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Prints one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Numbers of elements of the tensor; K and M are 1,024 and 1,048,576
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = size)]
    #[arg(default_value = "1K,16K,256K,4M,64M", conflicts_with_all = ["tensors", "model"])]
    sizes: Vec<usize>,
    /// Formats of parameter, gradient and momentum, or one for all three
    #[arg(long, value_name = "P/G/M,…", value_delimiter = ',')]
    #[arg(default_value = "f32/f32/f32,bf16/bf16/bf16")]
    dtypes: Vec<Dtypes>,
    /// The formats of the bandwidth bound; default: the formats of the step
    #[arg(long, value_name = "P/G/M")]
    limit: Option<Dtypes>,
    /// Rounds bf16 parameters stochastically
    #[arg(long)]
    stochastic_rounding: bool,
    /// Numbers of threads; default: 1, and all that this process may use
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = crate::threads)]
    threads: Vec<NonZeroUsize>,
    /// The instruction set: scalar, avx2, avx512, avx512bf16, neon or auto; default: LION_ISA
    #[arg(long, value_parser = crate::backend)]
    isa: Option<Backend>,
    /// Many tensors of the same length, such as 2000x4096
    #[arg(long, value_name = "N×LEN", value_parser = model::many, conflicts_with = "model")]
    tensors: Option<Tensors>,
    /// The tensors of a network
    #[arg(long)]
    model: Option<Model>,
    /// plain: the step alone. full: unscaling, clipping by global norm, weight decay, the step and a moving average
    #[arg(long, default_value = "plain")]
    pipeline: Pipeline,
    /// Pages of parameters and gradients: huge, or small as from a framework's allocator. The optimizer's state always
    /// uses huge pages if the system has them
    #[arg(long, default_value = "huge")]
    pages: Pages,
    /// How steps follow each other: back-to-back or apart. Apart as in a training run: the caller computes and reads other
    /// memory for a millisecond between two steps, so that threads sleep and caches hold other data
    #[arg(long, default_value = Calls::BackToBack.name(), value_parser = calls)]
    calls: Calls,
    /// The approximate time to measure each line, in seconds
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    seconds: Duration,
}

/// The work of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pipeline {
    Plain,
    Full,
}

/// The pages of parameters and gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pages {
    Small,
    Huge,
}

/// One line of the table: a combination to measure.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    tensors: Tensors,
    dtypes: Dtypes,
    /// The formats of the bandwidth bound, if they differ from the step's.
    limit: Option<Dtypes>,
    stochastic: bool,
    pipeline: Pipeline,
    pages: Pages,
    calls: Calls,
    plan: Plan,
    threads: NonZeroUsize,
}

fn calls(name: &str) -> Result<Calls, String> {
    let known = || Calls::ALL.iter().copied();
    known()
        .find(|it| it.name() == name)
        .ok_or_else(|| format!("expected one of {}", known().map(Calls::name).collect::<Vec<_>>().join(", ")))
}

fn size(text: &str) -> Result<usize, String> {
    const RANGE: &str = "expected a number of elements from 1 to 4096M, such as 16K or 4M";
    let (digits, unit) = match text.char_indices().last() {
        Some((end, 'K' | 'k')) => (text.get(..end), 1 << 10),
        Some((end, 'M' | 'm')) => (text.get(..end), 1 << 20),
        _ => (Some(text), 1),
    };
    let number: Option<usize> = digits.and_then(|digits| digits.parse().ok());
    let elements = number.and_then(|number| number.checked_mul(unit));
    elements.filter(|elements| (1..=4096 << 20).contains(elements)).ok_or_else(|| RANGE.into())
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let lines = lines(arguments)?;
    let interrupt = Interrupt::listen();

    let bar = crate::progress(lines.len(), "{bar:30} {pos}/{len} {msg}");
    let mut table = Table::new(arguments.json);
    for line in &lines {
        if interrupt.is_asked() {
            break;
        }
        bar.set_message(line.to_string());
        let found = measure(line, arguments.seconds)?;
        bar.suspend(|| table.add(line, &found))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    table.finish()
}

/// Returns every combination, in the order of the arguments.
fn lines(arguments: &Arguments) -> Result<Vec<Line>, CliError> {
    let backend = crate::backend_or_env(arguments.isa)?;
    let tensors = match (&arguments.tensors, arguments.model) {
        (Some(tensors), _) => vec![tensors.clone()],
        (None, Some(model)) => vec![model.tensors()],
        (None, None) => arguments.sizes.iter().map(|&len| Tensors::one(len)).collect(),
    };
    let threads = match arguments.threads.is_empty() {
        false => arguments.threads.clone(),
        true => {
            let all = NonZeroUsize::new(Machine::detect().cores).unwrap_or(NonZeroUsize::MIN);
            let mut threads = vec![NonZeroUsize::MIN, all];
            threads.dedup();
            threads
        }
    };
    let mut lines = Vec::new();
    for &dtypes in &arguments.dtypes {
        for tensors in &tensors {
            for &threads in &threads {
                let plan = Plan::new(backend).threads(threads.get());
                let &Arguments { limit, stochastic_rounding: stochastic, pipeline, pages, calls, .. } =
                    arguments;
                let tensors = tensors.clone();
                lines.push(Line {
                    tensors,
                    dtypes,
                    limit,
                    stochastic,
                    pipeline,
                    pages,
                    calls,
                    plan,
                    threads,
                });
            }
        }
    }
    Ok(lines)
}

/// Measures a line on its own thread pool.
fn measure(line: &Line, time: Duration) -> Result<Comparison, CliError> {
    crate::pool(line.threads)?.install(|| work::measure(line, time)).map_err(CliError::from)
}

impl Line {
    /// Bytes that a step moves: it reads each tensor, and writes parameter, momentum and average.
    fn bytes(&self) -> usize {
        let elements = self.tensors.elements();
        let more = match self.pipeline {
            Pipeline::Plain => 0,
            // The norm reads the gradient once more; the average is read and written.
            Pipeline::Full => self.dtypes.gradient.bytes(elements) + 2 * Dtype::F32.bytes(elements),
        };
        Operation::Step.traffic(self.dtypes, elements) + more
    }

    /// The format of the caller's parameters. The caller holds the high halves of a split parameter.
    fn parameter_dtype(&self) -> Dtype {
        self.dtypes.parameter.streams().first().map_or(Dtype::F32, |stream| stream.dtype)
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Line { tensors, dtypes, threads, .. } = self;
        let stochastic = if self.stochastic { " stochastic" } else { "" };
        write!(
            f,
            "{dtypes}{stochastic} {tensors}, {threads} thread{}",
            if threads.get() == 1 { "" } else { "s" }
        )
    }
}
