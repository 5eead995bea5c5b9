//! `lion bench`: what a call of the optimizer costs on this machine, beside what moving its bytes costs.
//!
//! Each line times [`Lion::apply`] and the streaming limit in turn: a pass over tensors of the same formats, with the same
//! traffic, on as many threads, that does nothing but one bit operation per vector. One tensor is streamed in its own
//! memory; of many, the limit is that of one tensor with the same bytes. `--limit` names the formats of another limit, on
//! memory of its own: what a format that moves fewer bytes saves is its ratio to the limit of f32.
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
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::seconds;

/// Times calls of the optimizer beside the streaming limit of this machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// One JSON object per line on stdout, and no table
    #[arg(long)]
    json: bool,
    /// Elements of the tensor; K and M are 1,024 and 1,048,576
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = size)]
    #[arg(default_value = "1K,16K,256K,4M,64M", conflicts_with_all = ["tensors", "model"])]
    sizes: Vec<usize>,
    /// Formats of parameter, gradient and momentum, or one for all three
    #[arg(long, value_name = "P/G/M,…", value_delimiter = ',')]
    #[arg(default_value = "f32/f32/f32,bf16/bf16/bf16")]
    dtypes: Vec<Dtypes>,
    /// The formats whose streaming limit calls are held against; without this their own
    #[arg(long, value_name = "P/G/M")]
    limit: Option<Dtypes>,
    /// Rounds bf16 parameters at random
    #[arg(long)]
    stochastic_rounding: bool,
    /// Numbers of threads; without this 1, and as many as there are
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = crate::threads)]
    threads: Vec<NonZeroUsize>,
    /// The instruction set: scalar, avx2, avx512, neon or auto; without this what LION_ISA says
    #[arg(long, value_parser = crate::backend)]
    isa: Option<Backend>,
    /// A number of tensors of the same length, such as 2000x4096
    #[arg(long, value_name = "N×LEN", value_parser = model::many, conflicts_with = "model")]
    tensors: Option<Tensors>,
    /// The tensors of a network
    #[arg(long)]
    model: Option<Model>,
    /// The step alone, or unscaling, clipping by the global norm, weight decay, the step and a moving average
    #[arg(long, default_value = "plain")]
    pipeline: Pipeline,
    /// Where parameters and gradients lie: on huge pages, or where a framework's allocator puts them. The optimizer's
    /// own state always asks for huge pages
    #[arg(long, default_value = "huge")]
    pages: Pages,
    /// How calls follow each other: back to back, or apart, as a training run makes them, with a millisecond between them
    /// in which the caller reads other memory, so that threads sleep and caches hold other data
    #[arg(long, default_value = Calls::BackToBack.name(), value_parser = calls)]
    calls: Calls,
    /// About how long a line is measured, in seconds
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    seconds: Duration,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pipeline {
    Plain,
    Full,
}

/// What kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pages {
    Small,
    Huge,
}

/// What a line measures.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    tensors: Tensors,
    dtypes: Dtypes,
    /// Of the limit, if it is not that of the call's own tensors.
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
        .ok_or_else(|| format!("must be one of {}", known().map(Calls::name).collect::<Vec<_>>().join(", ")))
}

fn size(text: &str) -> Result<usize, String> {
    const RANGE: &str = "must be a number of elements from 1 to 4096M, such as 16K or 4M";
    let (digits, unit) = match text.char_indices().last() {
        Some((end, 'K' | 'k')) => (text.get(..end), 1 << 10),
        Some((end, 'M' | 'm')) => (text.get(..end), 1 << 20),
        _ => (Some(text), 1),
    };
    let number: Option<usize> = digits.and_then(|digits| digits.parse().ok());
    let elements = number.and_then(|number| number.checked_mul(unit));
    elements.filter(|elements| (1..=4096 << 20).contains(elements)).ok_or_else(|| RANGE.into())
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
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

/// Every combination, in the order of the arguments.
fn lines(arguments: &Arguments) -> Result<Vec<Line>, Failure> {
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

/// On a pool of the line's own.
fn measure(line: &Line, time: Duration) -> Result<Comparison, Failure> {
    crate::pool(line.threads)?.install(|| work::measure(line, time)).map_err(Failure::from)
}

impl Line {
    /// Bytes that a call moves: each tensor is read, and parameter, momentum and average are written.
    fn bytes(&self) -> usize {
        let elements = self.tensors.elements();
        let more = match self.pipeline {
            Pipeline::Plain => 0,
            // The gradient once more for its norm, and the average.
            Pipeline::Full => self.dtypes.gradient.bytes(elements) + 2 * Dtype::F32.bytes(elements),
        };
        Operation::Step.traffic(self.dtypes, elements) + more
    }

    /// The format of the caller's parameters: of a split parameter its high halves.
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
