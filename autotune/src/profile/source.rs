//! Selects the profile.
//!
//! The strongest source comes first:
//!
//! 1. the API: options that the program sets;
//! 2. the environment: `LION_ISA`, `LION_NUM_THREADS` and `LION_CHUNK` each replace one part of every plan, with any
//!    profile; `LION_PROFILE` names the file; `LION_NO_PROFILE`, unless empty or 0, prevents that a file is read;
//! 3. the user's profile, at [`user_path`];
//! 4. the system's profile, at [`system_path`];
//! 5. the built-in defaults for the microarchitecture, [`default_plan`];
//! 6. the general defaults, [`Plan::new`](lion_kernels::Plan::new).
//!
//! The first file that exists is used. If it is bad, or for another machine, the library logs a warning and uses the
//! built-in defaults.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use etcetera::BaseStrategy as _;
use lion_kernels::Backend;

use super::{Document, Overrides, Profile, default_plan};
use crate::Error;
use crate::machine::{Machine, Microarchitecture};
use crate::text::excerpt;

/// The source of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The program.
    Api,
    /// The file in `LION_PROFILE`.
    Environment(PathBuf),
    /// The user's file.
    User(PathBuf),
    /// The system's file.
    System(PathBuf),
    /// The built-in defaults for a microarchitecture.
    BuiltIn(Microarchitecture),
}

impl Source {
    /// Returns the file, if the source is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Source::Environment(path) | Source::User(path) | Source::System(path) => Some(path),
            Source::Api | Source::BuiltIn(_) => None,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Api => f.write_str("the program"),
            Source::Environment(path) => write!(f, "{} (LION_PROFILE)", path.display()),
            Source::User(path) => write!(f, "{} (the user's)", path.display()),
            Source::System(path) => write!(f, "{} (the system's)", path.display()),
            Source::BuiltIn(known) => write!(f, "built in ({known})"),
        }
    }
}

/// Returns the path of the user's profile: `lion/profile.toml` in `$XDG_CONFIG_HOME` or `~/.config`, on Windows in
/// `%APPDATA%`. `None` if the user has no home.
pub fn user_path() -> Option<PathBuf> {
    let folders = etcetera::choose_base_strategy().ok()?;
    Some(folders.config_dir().join("lion").join("profile.toml"))
}

/// Returns the path of the profile for all users: `/etc/lion/profile.toml`, on Windows `lion\profile.toml` in
/// `%PROGRAMDATA%`.
pub fn system_path() -> PathBuf {
    let folder = match std::env::var_os("PROGRAMDATA") {
        Some(folder) if cfg!(windows) => PathBuf::from(folder),
        _ => PathBuf::from("/etc"),
    };
    folder.join("lion").join("profile.toml")
}

/// The environment that selects the profile.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `LION_PROFILE`.
    pub profile: Option<PathBuf>,
    /// `LION_NO_PROFILE`.
    pub no_profile: bool,
    /// `LION_ISA`.
    pub isa: Option<OsString>,
    /// `LION_NUM_THREADS`.
    pub threads: Option<OsString>,
    /// `LION_CHUNK`.
    pub chunk: Option<OsString>,
    /// The path of the user's profile.
    pub user: Option<PathBuf>,
    /// The path of the system's profile.
    pub system: Option<PathBuf>,
}

impl Environment {
    /// Reads the environment of this process.
    pub fn of_process() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Environment {
            profile: variable("LION_PROFILE").map(PathBuf::from),
            no_profile: variable("LION_NO_PROFILE").is_some_and(|value| value != "0"),
            isa: variable("LION_ISA"),
            threads: variable("LION_NUM_THREADS"),
            chunk: variable("LION_CHUNK"),
            user: user_path(),
            system: Some(system_path()),
        }
    }

    /// Returns the parts that replace those of every plan, and warnings about invalid variables.
    pub fn overrides(&self) -> (Overrides, Vec<String>) {
        let mut warnings = Vec::new();
        let mut number = |name: &str, value: &Option<OsString>| {
            let text = value.as_ref()?.to_string_lossy().into_owned();
            let found = text.parse::<usize>().ok().filter(|number| *number > 0);
            if found.is_none() {
                let found = excerpt(&text);
                warnings.push(format!("{name} is {found:?}; expected a number from 1; ignored"));
            }
            found
        };
        let threads = number("LION_NUM_THREADS", &self.threads);
        let chunk = number("LION_CHUNK", &self.chunk);
        let isa = self.isa.as_ref().map(|name| Backend::from_name(&name.to_string_lossy()));
        let backend = match isa {
            None => None,
            Some(Ok(backend)) => Some(backend),
            Some(Err(error)) => {
                warnings.push(format!("LION_ISA: {error}; ignored"));
                None
            }
        };
        (Overrides { backend, threads, chunk }, warnings)
    }

    /// Returns the first file that exists.
    fn file(&self) -> Option<(Source, PathBuf)> {
        if self.no_profile {
            return None;
        }
        if let Some(path) = &self.profile {
            return Some((Source::Environment(path.clone()), path.clone()));
        }
        let user = self.user.as_ref().map(|path| (Source::User(path.clone()), path.clone()));
        let system = self.system.as_ref().map(|path| (Source::System(path.clone()), path.clone()));
        user.into_iter().chain(system).find(|(_, path)| path.exists())
    }
}

impl Profile {
    /// Returns the profile of this process. The first call loads it; later calls return the same one. Never fails; problems
    /// are logged as warnings.
    pub fn load() -> Self {
        static LOADED: OnceLock<Profile> = OnceLock::new();
        if let Some(loaded) = LOADED.get() {
            return loaded.clone();
        }
        // Outside the lock, because a logger of the warnings may load the profile itself, or fork the process.
        let found = Self::found_in(&Environment::of_process(), &Machine::detect());
        LOADED.get_or_init(|| found).clone()
    }

    /// Loads the profile that an environment selects on a machine.
    pub fn found_in(environment: &Environment, machine: &Machine) -> Self {
        let (overrides, mut warnings) = environment.overrides();
        let found = environment.file().and_then(|(source, path)| {
            let read = Document::read(&path).and_then(|document| Self::of(&document, source, machine));
            let with_name = |error| match error {
                error @ Error::File { .. } => format!("{error}; using defaults"),
                error => format!("{}: {error}; using defaults", path.display()),
            };
            read.map_err(|error| warnings.push(with_name(error))).ok()
        });
        let (profile, differences) = found.unwrap_or_else(|| (Self::built_in(machine), Vec::new()));
        warnings.extend(differences.iter().map(|it| format!("{}: {it}", profile.source())));
        for warning in &warnings {
            log::warn!("{warning}");
        }
        profile.overridden(&overrides).with_warnings(warnings)
    }

    /// Returns the built-in defaults of a machine.
    pub fn built_in(machine: &Machine) -> Self {
        let plan = default_plan(machine, Backend::best());
        Self::new(Source::BuiltIn(machine.microarchitecture()), plan, &[])
    }
}
