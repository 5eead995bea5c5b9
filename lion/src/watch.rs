//! Log warnings about a training that fails silently. An optimizer and its clones give each warning once. Warnings do not
//! affect results.

use std::fmt;

use lion_kernels::Dtype;

use crate::group::GroupStep;
use crate::stalled;
use crate::variable::{Store, Variable};
use crate::{Hyperparameter, Outcome, Update, VariableId};

/// The largest number of elements of a variable that are checked, so that a check costs little compared with a step.
const SAMPLE: usize = 4096;

/// A variable counts as stalled if at least this fraction of its elements is.
const STALLED: f64 = 0.5;

/// The warnings given so far, and the state of the checks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    /// Updates since the optimizer was made.
    updates: u64,
    /// The learning rate at the last check for stalled variables.
    learning_rate: Option<f32>,
    warned_of_stall: bool,
    warned_of_loss_scale: bool,
}

impl Watch {
    /// Counts a step, and returns whether it checks for stalled variables.
    pub(crate) fn looks_for_stalls(
        &mut self,
        outcome: Outcome,
        schedule: &Hyperparameter,
        learning_rate: f32,
    ) -> bool {
        if outcome != Outcome::Updated {
            return false;
        }
        // The distance doubles, so a run of any length has a few dozen checks.
        self.updates = self.updates.saturating_add(1);
        if !self.updates.is_power_of_two() {
            return false;
        }
        // While the learning rate rises, as in a warmup, stalled variables are normal.
        let rises = match (self.learning_rate.replace(learning_rate), schedule) {
            (Some(before), _) => learning_rate > before,
            (None, Hyperparameter::Constant(_)) => false,
            (None, Hyperparameter::Scheduled(_)) => true,
        };
        !rises
    }

    /// Returns an empty record for a check of stalled variables.
    pub(crate) fn stalls(&self) -> Stalls {
        let warns = !self.warned_of_stall;
        Stalls { warns, first: None, variables: Vec::new(), stalled: 0.0, looked_at: 0.0 }
    }

    /// Logs the warnings of a finished step: a dynamic loss scale that cannot recover, and stalled variables.
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
                "halving leaves it infinite, and every step with a non-finite gradient is skipped"
            }
            _ => return,
        };
        self.warned_of_loss_scale = true;
        log::warn!(
            "the dynamic loss scale is {scale}: {consequence}; restore an earlier checkpoint, or set another scale"
        );
    }
}

/// The stalled elements of 16-bit variables in one step.
#[derive(Clone, Debug)]
pub(crate) struct Stalls {
    /// Whether a warning may follow, which needs the variables.
    warns: bool,
    /// The description of the first stalled variable.
    first: Option<String>,
    variables: Vec<VariableId>,
    /// The number of stalled elements among those checked.
    stalled: f64,
    looked_at: f64,
}

impl Stalls {
    /// Checks parameters after their step. Several ranges of a variable count as one variable.
    pub(crate) fn add(&mut self, variables: &[Variable], steps: &[GroupStep], updates: &[Update<'_>]) {
        for update in updates {
            let variable = &variables[update.variable.0];
            let learning_rate = steps[variable.group.0].hyperparameters.learning_rate;
            // Without a gradient, or with a rate of 0, the parameter is not meant to change.
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

    /// Returns the fraction of stalled elements among those checked.
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
        "variable {name:?}: a step of {learning_rate} does not move {:.0} % of its {dtype} elements, as it rounds \
         to nothing; use a larger learning rate, {remedy}",
        fraction * 100.0
    )
}

struct Others(usize);

impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => write!(f, " (and 1 other variable)"),
            others => write!(f, " (and {others} other variables)"),
        }
    }
}
