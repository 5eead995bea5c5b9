//! Parameter groups: hyperparameter overrides for some of the variables.

mod json;

use lion_kernels::LionStep;

use crate::{Config, DecayScale, Error, Hyperparameter, check};

/// The id of a group. The default is the group with the optimizer's own hyperparameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub(crate) usize);

impl GroupId {
    /// Returns the group's number, in the order in which groups were added, for bindings to other languages. 0 is the
    /// group with the optimizer's own hyperparameters.
    pub fn index(self) -> usize {
        self.0
    }

    /// Returns the group of that number. The optimizer refuses a number that it does not have.
    pub fn from_index(index: usize) -> Self {
        GroupId(index)
    }
}

/// Hyperparameter overrides for a group. Default: none.
///
/// ```
/// use lion::{Dtype, Group, Lion, Update, VariableOptions};
///
/// let mut optimizer = Lion::builder().learning_rate(0.5).weight_decay(0.1).build()?;
/// let slow = optimizer.add_group(Group::new().learning_rate_multiplier(0.5).no_weight_decay())?;
/// let options = VariableOptions { group: slow, ..Default::default() };
/// let embedding = optimizer.register_with("embedding", &[2], Dtype::F32, options)?;
///
/// let mut parameter = [1.0_f32, 1.0];
/// optimizer.apply(&mut [Update::new(embedding, &mut parameter[..], &[1.0_f32, -1.0][..])])?;
/// assert_eq!(parameter, [0.75, 1.25]);
/// # Ok::<(), lion::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Group {
    multiplier: f64,
    beta_1: Option<Hyperparameter>,
    beta_2: Option<Hyperparameter>,
    weight_decay: Decay,
    cautious_decay: Option<bool>,
    decay_scale: Option<DecayScale>,
}

#[derive(Clone, Debug, PartialEq)]
enum Decay {
    Inherited,
    Off,
    Own(Hyperparameter),
}

impl Default for Group {
    fn default() -> Self {
        Group {
            multiplier: 1.0,
            beta_1: None,
            beta_2: None,
            weight_decay: Decay::Inherited,
            cautious_decay: None,
            decay_scale: None,
        }
    }
}

impl Group {
    /// Returns a group without overrides.
    pub fn new() -> Self {
        Self::default()
    }

    /// Multiplies the optimizer's learning rate, in f32, by a number in [0, inf).
    pub fn learning_rate_multiplier(self, multiplier: f64) -> Self {
        Group { multiplier, ..self }
    }

    /// Sets the group's `beta_1`, in (0, 1].
    pub fn beta_1(self, beta_1: impl Into<Hyperparameter>) -> Self {
        Group { beta_1: Some(beta_1.into()), ..self }
    }

    /// Sets the group's `beta_2`, in [0, 1].
    pub fn beta_2(self, beta_2: impl Into<Hyperparameter>) -> Self {
        Group { beta_2: Some(beta_2.into()), ..self }
    }

    /// Sets the group's weight decay, in [0, inf).
    pub fn weight_decay(self, weight_decay: impl Into<Hyperparameter>) -> Self {
        Group { weight_decay: Decay::Own(weight_decay.into()), ..self }
    }

    /// Switches weight decay off for the group.
    pub fn no_weight_decay(self) -> Self {
        Group { weight_decay: Decay::Off, ..self }
    }

    /// Sets whether the group skips the decay of elements that the step moves away from zero.
    pub fn cautious_decay(self, cautious: bool) -> Self {
        Group { cautious_decay: Some(cautious), ..self }
    }

    /// Sets the group's scale of weight decay, which uses the group's learning rate.
    pub fn decay_scale(self, scale: DecayScale) -> Self {
        Group { decay_scale: Some(scale), ..self }
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        check::not_negative("learning_rate_multiplier", self.multiplier)?;
        if let Some(beta_1) = &self.beta_1 {
            beta_1.check("beta_1", check::positive_fraction)?;
        }
        if let Some(beta_2) = &self.beta_2 {
            beta_2.check("beta_2", check::fraction)?;
        }
        if let Decay::Own(weight_decay) = &self.weight_decay {
            weight_decay.check("weight_decay", check::not_negative)?;
        }
        if let Some(DecayScale::Relative(to) | DecayScale::Corrected(to)) = self.decay_scale {
            check::positive("decay_scale", to)?;
        }
        Ok(())
    }

    /// Returns the group's hyperparameters in a step; `own` are the optimizer's.
    pub(crate) fn step_hyperparameters(&self, own: &StepHyperparameters, step: u64) -> StepHyperparameters {
        StepHyperparameters {
            learning_rate: own.learning_rate * self.multiplier as f32,
            beta_1: self.beta_1.as_ref().map_or(own.beta_1, |beta| beta.evaluate(step)),
            beta_2: self.beta_2.as_ref().map_or(own.beta_2, |beta| beta.evaluate(step)),
            weight_decay: match &self.weight_decay {
                Decay::Inherited => own.weight_decay,
                Decay::Off => None,
                Decay::Own(weight_decay) => Some(weight_decay.evaluate(step)),
            },
            cautious_decay: self.cautious_decay.unwrap_or(own.cautious_decay),
            decay_scale: self.decay_scale.unwrap_or(own.decay_scale),
        }
    }
}

/// The hyperparameters of one step, for the variables of one group.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StepHyperparameters {
    /// The learning rate, with the group's multiplier.
    pub learning_rate: f32,
    /// The weight of the old momentum in the step's direction.
    pub beta_1: f32,
    /// The weight of the old momentum in the new momentum.
    pub beta_2: f32,
    /// The weight decay of variables that are not excluded from it.
    pub weight_decay: Option<f32>,
    /// Whether elements that the step moves away from zero are not decayed.
    pub cautious_decay: bool,
    /// The factor of weight decay.
    pub decay_scale: DecayScale,
}

impl StepHyperparameters {
    /// Returns whether these are the same numbers, bit for bit.
    pub(crate) fn same(&self, other: &StepHyperparameters) -> bool {
        let same = |one: f32, other: f32| one.to_bits() == other.to_bits();
        same(self.learning_rate, other.learning_rate)
            && same(self.beta_1, other.beta_1)
            && same(self.beta_2, other.beta_2)
            && self.weight_decay.map(f32::to_bits) == other.weight_decay.map(f32::to_bits)
            && self.cautious_decay == other.cautious_decay
            && self.decay_scale == other.decay_scale
    }

    /// Evaluates the optimizer's own hyperparameters. Requires the IEEE default floating-point state.
    pub(crate) fn new(config: &Config, step: u64) -> Self {
        StepHyperparameters {
            learning_rate: config.learning_rate.evaluate(step),
            beta_1: config.beta_1.evaluate(step),
            beta_2: config.beta_2.evaluate(step),
            weight_decay: config.weight_decay.as_ref().map(|weight_decay| weight_decay.evaluate(step)),
            cautious_decay: config.cautious_decay,
            decay_scale: config.decay_scale,
        }
    }

    /// Checks the hyperparameters, as a schedule's values are known only now, and builds the group's step.
    pub(crate) fn group_step(&self, step: u64) -> Result<GroupStep, Error> {
        self.checked_group_step().map_err(|error| error.in_step(step))
    }

    fn checked_group_step(&self) -> Result<GroupStep, Error> {
        check::not_negative("learning_rate", self.learning_rate.into())?;
        check::positive_fraction("beta_1", self.beta_1.into())?;
        check::fraction("beta_2", self.beta_2.into())?;
        let plain = LionStep::new(self.learning_rate, self.beta_1, self.beta_2)?;
        let hyperparameters = *self;
        let Some(weight_decay) = self.weight_decay else {
            return Ok(GroupStep { hyperparameters, plain, decaying: plain });
        };
        check::not_negative("weight_decay", weight_decay.into())?;
        let decaying = plain.weight_decay(weight_decay)?.masked_decay(self.cautious_decay);
        let decaying = match self.decay_scale {
            DecayScale::LearningRate => decaying,
            scale => {
                let rate = scale.evaluate(self.learning_rate);
                check::not_negative("the scale of weight decay", rate.into())?;
                decaying.decay_rate(rate)?
            }
        };
        Ok(GroupStep { hyperparameters, plain, decaying })
    }
}

/// A group's kernel settings, for variables with and without weight decay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupStep {
    pub(crate) hyperparameters: StepHyperparameters,
    pub(crate) plain: LionStep,
    pub(crate) decaying: LionStep,
}
