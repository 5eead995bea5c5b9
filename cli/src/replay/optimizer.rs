//! The optimizer that the arguments and the config ask for.

use lion::{Backend, Builder, Config, Lion};

use super::Arguments;
use crate::failure::Failure;

/// The number of threads and the size of the pieces change no bit, and are not used yet.
pub(crate) fn build(config: &Config, backend: Backend, arguments: &Arguments) -> Result<Lion, Failure> {
    let _plan = (arguments.threads, arguments.chunk);
    let mut builder = Builder::from(config.clone()).backend(backend);
    for pattern in &arguments.exclude_from_weight_decay {
        builder = builder.exclude_from_weight_decay(pattern.as_str());
    }
    if let Some(dtype) = arguments.momentum_dtype {
        builder = builder.momentum_dtype(dtype);
    }
    builder.build().map_err(|error| Failure::in_file(&arguments.config, error))
}
