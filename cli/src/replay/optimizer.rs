//! The optimizer that the arguments and the config ask for.

use std::num::NonZeroUsize;

use lion::{Backend, Builder, Config, Error, Lion, Plan, Profile};
use lion_autotune::{Environment, Machine, Overrides};

use super::Arguments;
use crate::failure::{Failure, say};

pub(crate) fn build(config: &Config, backend: Backend, arguments: &Arguments) -> Result<Lion, Failure> {
    let mut builder = Builder::from(config.clone()).profile(profile(backend, arguments));
    for pattern in &arguments.exclude_from_weight_decay {
        builder = builder.exclude_from_weight_decay(pattern);
    }
    if let Some(dtype) = arguments.momentum_dtype {
        builder = builder.momentum_dtype(dtype);
    }
    builder.build().map_err(|error| match error {
        // No config has patterns.
        Error::Pattern { pattern, reason } => Failure::Usage(format!(
            "--exclude-from-weight-decay: {pattern} is no regular expression that can be used: {reason}"
        )),
        error => Failure::in_file(&arguments.config, error),
    })
}

/// What the arguments leave open is the profile's to say: that of `--profile`, or the machine's.
fn profile(backend: Backend, arguments: &Arguments) -> Profile {
    let found = match (&arguments.profile, arguments.threads) {
        // Who names a number of threads, and no profile, wants to see them at work.
        (None, Some(_)) => Profile::fixed(Plan::new(backend).parallel_from(0)),
        (None, None) => Profile::load(),
        (Some(path), _) => {
            let environment = Environment { profile: Some(path.clone()), ..Environment::of_process() };
            Profile::found_in(&Environment { no_profile: false, ..environment }, &Machine::detect())
        }
    };
    for warning in found.warnings() {
        say(&format!("warning: {warning}"));
    }
    let named = arguments.isa.is_some() || std::env::var_os("LION_ISA").is_some();
    found.overridden(&Overrides {
        backend: named.then_some(backend),
        threads: arguments.threads.map(NonZeroUsize::get),
        chunk: arguments.chunk.map(NonZeroUsize::get),
    })
}
