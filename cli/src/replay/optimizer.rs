//! Builds the optimizer from the arguments and the config.

use std::num::NonZeroUsize;

use lion::{Backend, Builder, Config, Error, Lion, Plan, Profile};
use lion_autotune::{Environment, Machine, Overrides};

use super::Arguments;
use crate::error::CliError;

pub(crate) fn build(config: &Config, backend: Backend, arguments: &Arguments) -> Result<Lion, CliError> {
    let profile = profile(backend, arguments, Environment::of_process());
    let mut builder = Builder::from(config.clone()).profile(profile);
    for (name, value) in arguments.options() {
        builder = builder.set(name, value);
    }
    // In addition to the patterns of the config.
    for pattern in &arguments.exclude_from_weight_decay {
        builder = builder.exclude_from_weight_decay(pattern);
    }
    builder.build().map_err(|error| match error {
        // The patterns of the config were checked when it was read.
        Error::Pattern { pattern, reason } => CliError::Usage(format!(
            "--exclude-from-weight-decay: {pattern} is not a usable regular expression: {reason}"
        )),
        error => CliError::in_file(&arguments.config, error),
    })
}

/// Returns the profile. Arguments override the environment, which overrides the profile of `--profile`, or else of the
/// machine.
fn profile(backend: Backend, arguments: &Arguments, environment: Environment) -> Profile {
    let environment = match &arguments.profile {
        Some(path) => Environment { profile: Some(path.clone()), no_profile: false, ..environment },
        None => environment,
    };
    let names_profile = environment.profile.is_some() && !environment.no_profile;
    let found = if arguments.threads.is_some() && !names_profile {
        // A user who sets the number of threads, and no profile, wants all of them to work.
        let (overrides, warnings) = environment.overrides();
        for warning in warnings {
            log::warn!("{warning}");
        }
        Profile::fixed(Plan::new(backend).parallel_threshold(0)).overridden(&overrides)
    } else {
        // `found_in` logs warnings itself.
        Profile::found_in(&environment, &Machine::detect())
    };
    found.overridden(&Overrides {
        backend: arguments.isa,
        threads: arguments.threads.map(NonZeroUsize::get),
        chunk: arguments.chunk.map(NonZeroUsize::get),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use lion::Dtype;
    use lion_autotune::{Dtypes, Operation};

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn plan(more: &[&str], environment: Environment) -> Plan {
        let files = ["lion", "--config", "c", "--input", "i", "--output", "o"];
        let command = Command::parse_from(files.iter().chain(more));
        let found = profile(Backend::Scalar, &command.arguments, environment);
        *found.plan(Operation::Step, Dtypes::all(Dtype::F32), 1 << 20)
    }

    fn number(value: &str) -> Option<std::ffi::OsString> {
        Some(value.into())
    }

    #[test]
    fn arguments_are_stronger_than_the_environment() {
        let environment =
            || Environment { threads: number("5"), chunk: number("4096"), ..Environment::default() };
        let of_environment = plan(&["--threads", "2"], environment());
        assert_eq!((of_environment.threads, of_environment.chunk_elements), (NonZeroUsize::new(2), 4096));
        let of_arguments = plan(&["--threads", "2", "--chunk", "8192"], environment());
        assert_eq!((of_arguments.threads, of_arguments.chunk_elements), (NonZeroUsize::new(2), 8192));
        assert_eq!(plan(&[], environment()).threads, NonZeroUsize::new(5));
    }

    #[test]
    fn threads_are_at_work_on_small_tensors_unless_a_profile_is_named() {
        let named = || Environment { profile: Some("/nowhere".into()), ..Environment::default() };
        assert_eq!(plan(&["--threads", "2"], Environment::default()).parallel_threshold, Some(0));
        assert_ne!(plan(&["--threads", "2"], named()).parallel_threshold, Some(0));
        assert_ne!(
            plan(&["--threads", "2", "--profile", "/nowhere"], Environment::default()).parallel_threshold,
            Some(0)
        );
        let unread = Environment { no_profile: true, ..named() };
        assert_eq!(plan(&["--threads", "2"], unread).parallel_threshold, Some(0));
    }

    /// `LION_ISA` overrides every profile.
    #[test]
    fn the_instruction_set_is_that_of_the_argument_or_else_of_the_environment() {
        let scalar = || Environment { isa: Some("scalar".into()), ..Environment::default() };
        for threads in [&[][..], &["--threads", "2"]] {
            assert_eq!(plan(threads, scalar()).backend, Backend::Scalar);
            let best = [threads, &["--isa", "auto"]].concat();
            assert_eq!(plan(&best, scalar()).backend, Backend::best());
        }
    }
}
