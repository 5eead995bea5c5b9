use lion_autotune::{Overrides, Profile};
use lion_kernels::{Backend, Plan};

use crate::optimizer::backend_of;
use crate::options::Value;
use crate::{Config, Error, Lion, pattern};

/// Builds a [`Lion`] from a [`Config`], which says what it computes, and a backend and profile, which affect speed only.
///
/// Setters never fail. [`check`](Self::check) and [`build`](Self::build) return the errors.
///
/// ```
/// use lion::{Builder, Config, Lion, schedule::CosineDecay};
///
/// let optimizer = Lion::builder()
///     .learning_rate(CosineDecay::new(1e-4, 10_000.0)?)
///     .weight_decay(0.1)
///     .exclude_from_weight_decay("bias|norm")
///     .set("global_clipnorm", 1)
///     .build()?;
/// assert_eq!(optimizer.config().global_clipnorm, Some(1.0));
///
/// // From Keras's JSON, with an option that Keras's files do not hold.
/// let config = Config::from_json(&optimizer.config().to_json()?)?;
/// let again = Builder::from(config).exclude_from_weight_decay("bias|norm").build()?;
/// assert_eq!(again.config(), optimizer.config());
/// # Ok::<(), lion::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Builder {
    pub(crate) config: Config,
    /// The first option that the config refused in [`set`](Self::set); `check` returns its error.
    refused: Option<(String, Value)>,
    backend: Option<Backend>,
    profile: Option<Profile>,
}

impl From<Config> for Builder {
    fn from(config: Config) -> Self {
        Builder { config, ..Self::default() }
    }
}

impl Builder {
    /// Sets an option by name. [`check`](Self::check) reports a wrong name or value.
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if self.config.set(name, value.clone()).is_err() {
            self.refused.get_or_insert_with(|| (name.into(), value));
        }
        self
    }

    /// Excludes variables from weight decay if the regular expression matches anywhere in their name: `bias$`, not
    /// `.*bias$`. Call it again to add expressions. The syntax is that of the crate `regex`.
    pub fn exclude_from_weight_decay(mut self, pattern: impl Into<String>) -> Self {
        self.config.exclude_from_weight_decay.push(pattern.into());
        self
    }

    /// Keeps a moving average (EMA) of each parameter, with this momentum in [0, 1].
    pub fn ema(self, momentum: f64) -> Self {
        self.use_ema(true).ema_momentum(momentum)
    }

    /// Sets the instruction set. The default is `LION_ISA`, then the profile's, then the machine's fastest. The result is
    /// the same, bit for bit.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// Uses one plan for all work: threads, chunk, prefetch, and the instruction set unless [`backend`](Self::backend)
    /// sets one. The result is the same, bit for bit.
    pub fn plan(self, plan: Plan) -> Self {
        self.profile(Profile::fixed(plan))
    }

    /// Sets a plan for each kind of work. The default is the profile that [`Profile::load`] finds on this machine. The
    /// result is the same, bit for bit.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = Some(profile);
        self
    }

    /// Checks every option.
    ///
    /// # Errors
    /// The error of the first [`set`](Self::set) that failed, and those of [`Config::check`].
    pub fn check(&self) -> Result<(), Error> {
        if let Some((name, value)) = &self.refused {
            Config::default().set(name, value.clone())?;
        }
        self.config.check()
    }

    /// Builds the optimizer.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and a backend, set here or in `LION_ISA`, that this machine does not have.
    pub fn build(self) -> Result<Lion, Error> {
        self.check()?;
        let patterns = self.config.exclude_from_weight_decay.iter();
        let patterns = patterns.map(|text| pattern::compile(text)).collect::<Result<_, _>>()?;
        let backend = self.backend.map(Backend::ensure_available).transpose()?;
        let profile = match self.profile {
            Some(profile) => profile,
            None => {
                // A wrong name is an error here. `Profile::load` only warns.
                Backend::from_env()?;
                Profile::load()
            }
        };
        let profile = match backend {
            Some(_) => profile.overridden(&Overrides { backend, ..Overrides::default() }),
            None => profile,
        };
        let backend = backend_of(&profile)?;
        let cadence = self.config.ema_cadence;
        Ok(Lion::new(self.config, cadence, patterns, profile, backend))
    }
}
