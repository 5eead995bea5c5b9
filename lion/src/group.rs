//! Parameter groups: hyperparameters of their own for some of the variables.

mod json;

use lion_kernels::LionStep;

use crate::{Config, DecayScale, Error, Hyperparameter, check};

/// A group of the optimizer that made it. The default is the optimizer's own hyperparameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub(crate) usize);

impl GroupId {
    /// The group's number, in the order in which groups were added: for bindings to other languages. 0 is the optimizer's
    /// own hyperparameters.
    pub fn index(self) -> usize {
        self.0
    }

    /// The group of that number. Calls refuse a number that the optimizer does not have.
    pub fn from_index(index: usize) -> Self {
        GroupId(index)
    }
}

/// In what a group of variables differs from the optimizer's own hyperparameters: in nothing at first.
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
    /// The optimizer's own hyperparameters.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the optimizer's learning rate is multiplied by, in f32; in [0, inf).
    pub fn learning_rate_multiplier(self, multiplier: f64) -> Self {
        Group { multiplier, ..self }
    }

    /// A `beta_1` of its own, in (0, 1].
    pub fn beta_1(self, beta_1: impl Into<Hyperparameter>) -> Self {
        Group { beta_1: Some(beta_1.into()), ..self }
    }

    /// A `beta_2` of its own, in [0, 1].
    pub fn beta_2(self, beta_2: impl Into<Hyperparameter>) -> Self {
        Group { beta_2: Some(beta_2.into()), ..self }
    }

    /// A weight decay of its own, in [0, inf).
    pub fn weight_decay(self, weight_decay: impl Into<Hyperparameter>) -> Self {
        Group { weight_decay: Decay::Own(weight_decay.into()), ..self }
    }

    /// No weight decay, whatever the optimizer has.
    pub fn no_weight_decay(self) -> Self {
        Group { weight_decay: Decay::Off, ..self }
    }

    /// Whether it does not decay elements that the step moves away from zero, whatever the optimizer does.
    pub fn cautious_decay(self, cautious: bool) -> Self {
        Group { cautious_decay: Some(cautious), ..self }
    }

    /// A scale of the weight decay of its own, of the group's learning rate.
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

    /// The group's hyperparameters in a call in which those of the optimizer are `own`.
    pub(crate) fn rates(&self, own: &Rates, call: u64) -> Rates {
        Rates {
            learning_rate: own.learning_rate * self.multiplier as f32,
            beta_1: self.beta_1.as_ref().map_or(own.beta_1, |beta| beta.evaluate(call)),
            beta_2: self.beta_2.as_ref().map_or(own.beta_2, |beta| beta.evaluate(call)),
            weight_decay: match &self.weight_decay {
                Decay::Inherited => own.weight_decay,
                Decay::Off => None,
                Decay::Own(weight_decay) => Some(weight_decay.evaluate(call)),
            },
            cautious_decay: self.cautious_decay.unwrap_or(own.cautious_decay),
            decay_scale: self.decay_scale.unwrap_or(own.decay_scale),
        }
    }
}

/// The hyperparameters of one call, for the variables of one group.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Rates {
    /// The learning rate, with the group's multiplier.
    pub learning_rate: f32,
    /// The share of the momentum in the step's direction.
    pub beta_1: f32,
    /// The share of the momentum that it keeps.
    pub beta_2: f32,
    /// The weight decay of variables that are not excluded from it.
    pub weight_decay: Option<f32>,
    /// Whether elements that the step moves away from zero do not decay.
    pub cautious_decay: bool,
    /// What the weight decay is multiplied by.
    pub decay_scale: DecayScale,
}

impl Rates {
    /// Whether these are the same numbers, to the sign of a zero.
    pub(crate) fn same(&self, other: &Rates) -> bool {
        let same = |one: f32, other: f32| one.to_bits() == other.to_bits();
        same(self.learning_rate, other.learning_rate)
            && same(self.beta_1, other.beta_1)
            && same(self.beta_2, other.beta_2)
            && self.weight_decay.map(f32::to_bits) == other.weight_decay.map(f32::to_bits)
            && self.cautious_decay == other.cautious_decay
            && self.decay_scale == other.decay_scale
    }

    /// Under the IEEE default floating-point state.
    pub(crate) fn new(config: &Config, call: u64) -> Self {
        Rates {
            learning_rate: config.learning_rate.evaluate(call),
            beta_1: config.beta_1.evaluate(call),
            beta_2: config.beta_2.evaluate(call),
            weight_decay: config.weight_decay.as_ref().map(|weight_decay| weight_decay.evaluate(call)),
            cautious_decay: config.cautious_decay,
            decay_scale: config.decay_scale,
        }
    }

    /// Checked once more, because a schedule's values are known only now.
    pub(crate) fn steps(&self, call: u64) -> Result<Steps, Error> {
        self.checked_steps().map_err(|error| error.in_call(call))
    }

    fn checked_steps(&self) -> Result<Steps, Error> {
        check::not_negative("learning_rate", self.learning_rate.into())?;
        check::positive_fraction("beta_1", self.beta_1.into())?;
        check::fraction("beta_2", self.beta_2.into())?;
        let plain = LionStep::new(self.learning_rate, self.beta_1, self.beta_2)?;
        let rates = *self;
        let Some(weight_decay) = self.weight_decay else {
            return Ok(Steps { rates, plain, decaying: plain });
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
        Ok(Steps { rates, plain, decaying })
    }
}

/// A group's step, for variables with and without weight decay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    pub(crate) rates: Rates,
    pub(crate) plain: LionStep,
    pub(crate) decaying: LionStep,
}
