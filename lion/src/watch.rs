//! Warnings in the log for a training that goes wrong in silence. Each is given once for an optimizer and its clones.
//! They change no number.

use std::fmt;

use lion_kernels::Dtype;

use crate::group::Steps;
use crate::stalled;
use crate::variable::Variable;
use crate::{Hyperparameter, Outcome, Update};

/// At most so many elements of a variable are looked at, so that a check costs little beside a call.
const SAMPLE: usize = 4096;

/// A variable stalls if this share of its elements does.
const STALLED: f64 = 0.5;

/// The warnings that an optimizer has given, and what it needs to know for those to come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    /// Updates since the optimizer was made.
    updates: u64,
    /// Of the last check for stalled variables.
    learning_rate: Option<f32>,
    warned_of_stall: bool,
    warned_of_loss_scale: bool,
}

/// A finished call, as the optimizer knows it.
pub(crate) struct Finished<'a> {
    pub(crate) outcome: Outcome,
    pub(crate) learning_rate: &'a Hyperparameter,
    /// The value of that in the call.
    pub(crate) rate: f32,
    /// Of the next call, if the scale is dynamic.
    pub(crate) dynamic_loss_scale: Option<f32>,
    pub(crate) variables: &'a [Variable],
    /// By group.
    pub(crate) steps: &'a [Steps],
}

impl Watch {
    /// Looks at what a call has left behind.
    pub(crate) fn after(&mut self, call: &Finished<'_>, updates: &[Update<'_>]) {
        match call.dynamic_loss_scale {
            Some(scale) if !self.warned_of_loss_scale => self.check_loss_scale(scale),
            _ => {}
        }
        if call.outcome != Outcome::Updated || self.warned_of_stall {
            return;
        }
        // Ever more seldom: a run of any length pays for a few dozen checks.
        self.updates = self.updates.saturating_add(1);
        if self.updates.is_power_of_two() {
            self.check_stall(call, updates);
        }
    }

    fn check_loss_scale(&mut self, scale: f32) {
        let consequence = match scale {
            0.0 => "doubling leaves it at 0, and gradients divided by it are not finite",
            f32::INFINITY => {
                "halving leaves it infinite, and every call with gradients that are not finite is skipped"
            }
            _ => return,
        };
        self.warned_of_loss_scale = true;
        log::warn!(
            "the dynamic loss scale is {scale}: {consequence}; go on from a checkpoint made before, or set another \
             scale"
        );
    }

    /// While the learning rate rises, as in a warm-up, variables may stall for a time.
    fn check_stall(&mut self, call: &Finished<'_>, updates: &[Update<'_>]) {
        let rises = match (self.learning_rate.replace(call.rate), call.learning_rate) {
            (Some(before), _) => call.rate > before,
            (None, Hyperparameter::Constant(_)) => false,
            (None, Hyperparameter::Scheduled(_)) => true,
        };
        if rises {
            return;
        }
        let mut stalled = updates.iter().filter_map(|update| Stalled::find(call, update));
        if let Some(first) = stalled.next() {
            self.warned_of_stall = true;
            log::warn!("{first}{}", Others(stalled.count()));
        }
    }
}

/// A 16-bit variable that most steps do not move.
struct Stalled<'a> {
    name: &'a str,
    dtype: Dtype,
    share: f64,
    learning_rate: f32,
}

impl<'a> Stalled<'a> {
    fn find(call: &Finished<'a>, update: &Update<'_>) -> Option<Self> {
        let variable = &call.variables[update.variable.0];
        let learning_rate = call.steps[variable.group.0].rates.learning_rate;
        // Without a gradient, or with a rate of 0, it is meant to stay.
        let moves = update.gradient.is_some() && !variable.overwritten && learning_rate > 0.0;
        if !moves || variable.dtype == Dtype::F32 {
            return None;
        }
        let share = stalled::fraction_of_sample(update.parameter.to_ref(), learning_rate, SAMPLE);
        (share >= STALLED).then_some(Stalled {
            name: &variable.name,
            dtype: variable.dtype,
            share,
            learning_rate,
        })
    }
}

impl fmt::Display for Stalled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stalled { name, dtype, share, learning_rate } = self;
        write!(
            f,
            "variable {name:?}: a step of {learning_rate} does not move {:.0} % of its {dtype} elements, to which it \
             rounds to nothing; use a larger learning rate, or an f32 parameter with a {dtype} copy",
            share * 100.0
        )
    }
}

struct Others(usize);

impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => write!(f, " (so it is with 1 other variable)"),
            others => write!(f, " (so it is with {others} other variables)"),
        }
    }
}
