use lion_autotune::{Overrides, Profile};
use lion_kernels::{Backend, Plan};

use crate::optimizer::backend_of;
use crate::options::Value;
use crate::{Config, Error, Lion, pattern};

/// A [`Lion`] to be: what it computes, which is a [`Config`], and apart from that how it is fast.
///
/// Setters never fail. [`check`](Self::check) and [`build`](Self::build) say what is wrong.
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
/// // From Keras's file, with an option that it does not have.
/// let config = Config::from_json(&optimizer.config().to_json()?)?;
/// let again = Builder::from(config).exclude_from_weight_decay("bias|norm").build()?;
/// assert_eq!(again.config(), optimizer.config());
/// # Ok::<(), lion::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Builder {
    pub(crate) config: Config,
    /// The first option by name that the config has refused: the error comes again when it is asked for.
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
    /// Sets an option by its name. A wrong name or value is the error of [`check`](Self::check).
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if self.config.set(name, value.clone()).is_err() {
            self.refused.get_or_insert_with(|| (name.into(), value));
        }
        self
    }

    /// No weight decay for variables in whose name the regular expression is found, anywhere: `bias$`, not `.*bias$`.
    /// Call it again for more. The syntax is that of the crate `regex`.
    pub fn exclude_from_weight_decay(mut self, pattern: impl Into<String>) -> Self {
        self.config.exclude_from_weight_decay.push(pattern.into());
        self
    }

    /// Keeps a moving average of each parameter that keeps this much of itself in a call, in [0, 1].
    pub fn ema(self, momentum: f64) -> Self {
        self.use_ema(true).ema_momentum(momentum)
    }

    /// The instruction set; without this it is what `LION_ISA` names, or the profile, or else the machine's fastest. The result is
    /// the same, bit for bit.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// One plan for all work: threads, chunk, prefetching, and the instruction set where [`backend`](Self::backend) does
    /// not name one. The result is the same, bit for bit.
    pub fn plan(self, plan: Plan) -> Self {
        self.profile(Profile::fixed(plan))
    }

    /// A plan for each kind of work; without this, what [`Profile::load`] finds on this machine. The result is the same,
    /// bit for bit.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = Some(profile);
        self
    }

    /// Checks every option.
    ///
    /// # Errors
    /// Those of [`Config::set`] for the first option by name that it refused, and those of [`Config::check`].
    pub fn check(&self) -> Result<(), Error> {
        if let Some((name, value)) = &self.refused {
            Config::default().set(name, value.clone())?;
        }
        self.config.check()
    }

    /// The optimizer.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); a backend, here or in `LION_ISA`, that this machine lacks.
    pub fn build(self) -> Result<Lion, Error> {
        self.check()?;
        let patterns = self.config.exclude_from_weight_decay.iter();
        let patterns = patterns.map(|text| pattern::compile(text)).collect::<Result<_, _>>()?;
        let backend = self.backend.map(Backend::ensure_available).transpose()?;
        let profile = match self.profile {
            Some(profile) => profile,
            None => {
                // A wrong name is an error here, and only a warning where profiles are looked for.
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
