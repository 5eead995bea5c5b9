use lion_autotune::{Dtypes, Operation, Overrides, Profile};
use lion_kernels::{Backend, Dtype, Plan};
use regex::{Regex, RegexBuilder};

use crate::json::excerpt;
use crate::{Config, DynamicLossScale, EmaCadence, Error, Hyperparameter, Lion};

/// The options of a [`Lion`] to be, with Keras's names and defaults: a [`Config`] and what Keras's files lack.
///
/// ```
/// use lion::{Builder, Config, Lion, schedule::CosineDecay};
///
/// let optimizer = Lion::builder()
///     .learning_rate(CosineDecay::new(1e-4, 10_000.0)?)
///     .weight_decay(0.1)
///     .exclude_from_weight_decay("bias|norm")
///     .global_clipnorm(1.0)
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
    config: Config,
    patterns: Vec<String>,
    pub(crate) ema_cadence: EmaCadence,
    backend: Option<Backend>,
    profile: Option<Profile>,
    pub(crate) momentum_dtype: Option<Dtype>,
}

impl From<Config> for Builder {
    fn from(config: Config) -> Self {
        Builder { config, ..Self::default() }
    }
}

impl Builder {
    /// How far a call moves each element, in [0, inf). 0.001 unless set.
    pub fn learning_rate(mut self, learning_rate: impl Into<Hyperparameter>) -> Self {
        self.config.learning_rate = learning_rate.into();
        self
    }

    /// The share of the old momentum in the direction of a step, in (0, 1]. 0.9 unless set.
    pub fn beta_1(mut self, beta_1: impl Into<Hyperparameter>) -> Self {
        self.config.beta_1 = beta_1.into();
        self
    }

    /// The share of the old momentum in the new one, in [0, 1]. 0.99 unless set.
    pub fn beta_2(mut self, beta_2: impl Into<Hyperparameter>) -> Self {
        self.config.beta_2 = beta_2.into();
        self
    }

    /// Decoupled weight decay, in [0, inf): an update takes `learning_rate * weight_decay` of each element. None
    /// unless set; 0 is not none, as it rewrites a parameter of -0 as +0.
    pub fn weight_decay(mut self, weight_decay: impl Into<Hyperparameter>) -> Self {
        self.config.weight_decay = Some(weight_decay.into());
        self
    }

    /// No weight decay for variables in whose name the regular expression is found, anywhere: `bias$`, not `.*bias$`.
    /// Call it again for more. The syntax is that of the crate `regex`.
    pub fn exclude_from_weight_decay(mut self, pattern: impl Into<String>) -> Self {
        self.patterns.push(pattern.into());
        self
    }

    /// Clips each gradient to this L2 norm, in (0, inf). At most one of the clips may be set.
    pub fn clipnorm(mut self, limit: f64) -> Self {
        self.config.clipnorm = Some(limit);
        self
    }

    /// Clips all gradients of a call to this joint L2 norm, in (0, inf). At most one of the clips may be set.
    pub fn global_clipnorm(mut self, limit: f64) -> Self {
        self.config.global_clipnorm = Some(limit);
        self
    }

    /// Clips each element of each gradient to this magnitude, in (0, inf). At most one of the clips may be set.
    pub fn clipvalue(mut self, limit: f64) -> Self {
        self.config.clipvalue = Some(limit);
        self
    }

    /// Keeps a moving average of each parameter that keeps this much of itself in a call, in [0, 1].
    pub fn ema(mut self, momentum: f64) -> Self {
        self.config.use_ema = true;
        self.config.ema_momentum = momentum;
        self
    }

    /// Writes the average back to the parameter after every so many updates, at least 1. Never unless set.
    pub fn ema_overwrite_frequency(mut self, updates: u64) -> Self {
        self.config.ema_overwrite_frequency = Some(updates);
        self
    }

    /// Which calls move the average where gradients are accumulated. Keras's way unless set: every call.
    pub fn ema_cadence(mut self, cadence: EmaCadence) -> Self {
        self.ema_cadence = cadence;
        self
    }

    /// Divides gradients by the factor that [`Lion::scale_loss`] multiplies the loss by, in (0, inf).
    pub fn loss_scale_factor(mut self, factor: f64) -> Self {
        self.config.loss_scale_factor = Some(factor);
        self
    }

    /// Finds the loss scale at run time, as Keras's `LossScaleOptimizer` does: calls with a gradient that is not
    /// finite are skipped and halve it. `loss_scale_factor` then has no effect.
    pub fn dynamic_loss_scale(mut self, scale: DynamicLossScale) -> Self {
        self.config.dynamic_loss_scale = Some(scale);
        self
    }

    /// Averages the gradients of this many calls for one update, in [2, 2^24].
    pub fn gradient_accumulation_steps(mut self, calls: u32) -> Self {
        self.config.gradient_accumulation_steps = Some(calls);
        self
    }

    /// Keras's name of the optimizer, which only its files show. `lion` unless set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// The format of momentum, for variables that do not choose one. The parameter's own unless set.
    pub fn momentum_dtype(mut self, dtype: Dtype) -> Self {
        self.momentum_dtype = Some(dtype);
        self
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

    /// The optimizer.
    ///
    /// # Errors
    /// Those of [`Config::validate`]; [`Error::Pattern`]; a backend, here or in `LION_ISA`, that this machine lacks.
    pub fn build(self) -> Result<Lion, Error> {
        self.config.validate()?;
        let patterns = self.patterns.iter().map(|pattern| compile(pattern)).collect::<Result<_, _>>()?;
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
        // A plan may have been made for another machine.
        let backend = profile.plan(Operation::Step, Dtypes::all(Dtype::F32), 0).backend.ensure_available()?;
        Ok(Lion::new(self.config, self.ema_cadence, self.momentum_dtype, patterns, profile, backend))
    }
}

/// More than any list of names needs, and little enough that a hostile expression takes neither memory nor time.
const PATTERN_SIZE: usize = 1 << 20;

fn compile(pattern: &str) -> Result<Regex, Error> {
    let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_SIZE).build();
    compiled.map_err(|error| {
        // The syntax errors point at the place in several lines, of which the last says what it is.
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason).to_owned();
        Error::Pattern { pattern: excerpt(&pattern.into()), reason }
    })
}
