//! The optimizer that the arguments and the config ask for.

use lion::{Backend, Builder, Config, Lion, Plan};

use super::Arguments;
use crate::failure::Failure;

pub(crate) fn build(config: &Config, backend: Backend, arguments: &Arguments) -> Result<Lion, Failure> {
    let mut plan = Plan::new(backend);
    if let Some(threads) = arguments.threads {
        // Who names a number of threads wants to see them at work.
        plan = plan.threads(threads.get()).parallel_from(0);
    }
    if let Some(chunk) = arguments.chunk {
        plan = plan.chunk(chunk.get());
    }
    let mut builder = Builder::from(config.clone()).plan(plan);
    for pattern in &arguments.exclude_from_weight_decay {
        builder = builder.exclude_from_weight_decay(pattern.as_str());
    }
    if let Some(dtype) = arguments.momentum_dtype {
        builder = builder.momentum_dtype(dtype);
    }
    builder.build().map_err(|error| Failure::in_file(&arguments.config, error))
}
