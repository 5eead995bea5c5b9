//! Warnings in the log for a training that goes wrong in silence. Each is given once for an optimizer and its clones.
//! They change no number.

use std::fmt;

use lion_kernels::Dtype;

use crate::group::GroupStep;
use crate::stalled;
use crate::variable::{Store, Variable};
use crate::{Hyperparameter, Outcome, Update, VariableId};

/// At most so many elements of a variable are looked at, so that a check costs little beside a call.
const SAMPLE: usize = 4096;

/// A variable stalls if this fraction of its elements does.
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

impl Watch {
    /// Counts a call, and says whether it is one that looks for variables that stall.
    pub(crate) fn looks_for_stalls(
        &mut self,
        outcome: Outcome,
        schedule: &Hyperparameter,
        learning_rate: f32,
    ) -> bool {
        if outcome != Outcome::Updated {
            return false;
        }
        // Ever more seldom: a run of any length pays for a few dozen checks.
        self.updates = self.updates.saturating_add(1);
        if !self.updates.is_power_of_two() {
            return false;
        }
        // While the learning rate rises, as in a warm-up, variables may stall for a time.
        let rises = match (self.learning_rate.replace(learning_rate), schedule) {
            (Some(before), _) => learning_rate > before,
            (None, Hyperparameter::Constant(_)) => false,
            (None, Hyperparameter::Scheduled(_)) => true,
        };
        !rises
    }

    /// Nothing found yet, in a call that looks for what stalls.
    pub(crate) fn stalls(&self) -> Stalls {
        let warns = !self.warned_of_stall;
        Stalls { warns, first: None, variables: Vec::new(), stalled: 0.0, looked_at: 0.0 }
    }

    /// Warns of what a finished call has left in a state from which no later call gets out: the dynamic loss scale of the
    /// next call, if there is one, and the variables that stall.
    pub(crate) fn warn(&mut self, dynamic_loss_scale: Option<f32>, stalls: Option<&Stalls>) {
        match dynamic_loss_scale {
            Some(scale) if !self.warned_of_loss_scale => self.check_loss_scale(scale),
            _ => {}
        }
        if let Some(Stalls { first: Some(first), variables, .. }) = stalls {
            self.warned_of_stall = true;
            log::warn!("{first}{}", Others(variables.len() - 1));
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
}

/// What one call does not move of 16-bit variables.
#[derive(Clone, Debug)]
pub(crate) struct Stalls {
    /// Whether the variables are wanted, for a warning.
    warns: bool,
    /// Says so of the first.
    first: Option<String>,
    variables: Vec<VariableId>,
    /// Of all elements that were looked at.
    stalled: f64,
    looked_at: f64,
}

impl Stalls {
    /// Looks at parameters after their step. A variable that comes by ranges is one.
    pub(crate) fn add(&mut self, variables: &[Variable], steps: &[GroupStep], updates: &[Update<'_>]) {
        for update in updates {
            let variable = &variables[update.variable.0];
            let learning_rate = steps[variable.group.0].hyperparameters.learning_rate;
            // Without a gradient, or with a rate of 0, it is meant to stay.
            let moves = update.gradient.is_some() && !variable.overwritten && learning_rate > 0.0;
            if !moves || variable.dtype == Dtype::F32 || variable.store != Store::Nearest {
                continue;
            }
            let elements = update.parameter.len().min(SAMPLE) as f64;
            let fraction = stalled::fraction_of_sample(update.parameter.to_ref(), learning_rate, SAMPLE);
            self.stalled += fraction * elements;
            self.looked_at += elements;
            if self.warns && fraction >= STALLED && !self.variables.contains(&update.variable) {
                self.first.get_or_insert_with(|| describe(variable, fraction, learning_rate));
                self.variables.push(update.variable);
            }
        }
    }

    /// The fraction of the elements that were looked at.
    pub(crate) fn fraction(&self) -> f64 {
        if self.looked_at == 0.0 { 0.0 } else { self.stalled / self.looked_at }
    }
}

fn describe(variable: &Variable, fraction: f64, learning_rate: f32) -> String {
    let Variable { name, dtype, .. } = variable;
    let remedy = match dtype {
        Dtype::BF16 => "stochastic_rounding, split_master, or an f32 parameter with a bf16 copy",
        _ => "or an f32 parameter with an f16 copy",
    };
    format!(
        "variable {name:?}: a step of {learning_rate} does not move {:.0} % of its {dtype} elements, to which it rounds \
         to nothing; use a larger learning rate, {remedy}",
        fraction * 100.0
    )
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
