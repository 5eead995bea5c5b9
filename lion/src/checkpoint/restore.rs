//! Converts an optimizer's state to a checkpoint and back.

use std::ops::Range;

use lion_kernels::TensorMut;

use super::role::{SAVED_ROLES, SavedRole};
use super::{Checkpoint, LossScaleState, SavedVariable, Tensor};
use crate::variable::{VariableStateMut, VariableView, elements};
use crate::{Error, Lion};

impl Lion {
    /// Returns the optimizer's whole state, borrowed. The caller adds the parameters, in the order of
    /// [`variables`](Self::variables), if the checkpoint should hold them. The config is left out if it contains a closure.
    ///
    /// # Errors
    /// [`Error::OpenStep`] if a step in parts is open.
    pub fn checkpoint(&self) -> Result<Checkpoint<'_>, Error> {
        self.require_no_step()?;
        let dynamic = self.dynamic_loss_scale();
        Ok(Checkpoint {
            variables: self.variables().map(SavedVariable::from).collect(),
            iterations: self.iterations(),
            dynamic: dynamic.map(|(scale, step_counter)| LossScaleState { scale, step_counter }),
            config_json: self.config().to_lion_json().ok(),
            seed: self.config().stochastic_rounding,
        })
    }

    /// Restores the state from a checkpoint of the same variables. The optimizer keeps its options. The caller takes the
    /// parameters from the checkpoint. If this optimizer holds a shard of a variable, the checkpoint may have the whole
    /// variable, or a shard that contains this one.
    ///
    /// # Errors
    /// [`Error::State`] if the variables, shapes, dtypes or kinds of state differ from this optimizer's;
    /// [`Error::OpenStep`] if a step in parts is open. On an error nothing has changed.
    pub fn restore(&mut self, checkpoint: &Checkpoint<'_>) -> Result<(), Error> {
        self.require_no_step()?;
        let ids = self.check_state(checkpoint)?;
        self.restore_counters(checkpoint)?;
        for (id, saved) in ids.into_iter().zip(&checkpoint.variables) {
            let held = self.registered(id)?.held.clone();
            let start = held.start - saved.shard.as_ref().map_or(0, |shard| shard.start);
            let state = self.state_mut(id).expect("the variable has been found above");
            copy_state(saved, start..start + held.len(), state, 0);
        }
        Ok(())
    }

    /// Checks the checkpoint's state other than variables: the loss scale and the seed.
    pub(super) fn check_counters(&self, checkpoint: &Checkpoint<'_>) -> Result<(), Error> {
        let wrong =
            |reason: &str| Err(Error::State { tensor: "dynamic_scale".into(), reason: reason.into() });
        match (checkpoint.dynamic, self.dynamic_loss_scale()) {
            (Some(_), None) => wrong("is present, and the optimizer has none"),
            (None, Some(_)) => wrong("is missing"),
            _ => self.check_seed(checkpoint),
        }
    }

    fn check_seed(&self, checkpoint: &Checkpoint<'_>) -> Result<(), Error> {
        let seed = |seed: Option<u64>| seed.map_or("none".into(), |seed| seed.to_string());
        let (found, own) = (checkpoint.seed, self.config().stochastic_rounding);
        if found == own {
            return Ok(());
        }
        let (found, own) = (seed(found), seed(own));
        let reason = format!("is {found}, and must be {own} as the optimizer's stochastic_rounding");
        Err(Error::State { tensor: "seed".into(), reason })
    }

    /// Sets the counters. Requires that [`check_counters`](Self::check_counters) has accepted them.
    pub(super) fn restore_counters(&mut self, checkpoint: &Checkpoint<'_>) -> Result<(), Error> {
        if let Some(LossScaleState { scale, step_counter }) = checkpoint.dynamic {
            self.set_dynamic_loss_scale(scale, step_counter)?;
        }
        self.set_iterations(checkpoint.iterations);
        Ok(())
    }

    /// Checks the checkpoint, and returns the ids of its variables.
    fn check_state(&self, checkpoint: &Checkpoint<'_>) -> Result<Vec<crate::VariableId>, Error> {
        let wrong = |tensor: String, reason: String| Err(Error::State { tensor, reason });
        self.check_counters(checkpoint)?;
        let mut ids = Vec::new();
        for saved in &checkpoint.variables {
            let Some(own) = self.variable(&saved.name).and_then(|id| self.view(id)) else {
                return wrong(
                    format!("momentum/{}", saved.name),
                    "the optimizer has no such variable".into(),
                );
            };
            check_variable(saved, &own)?;
            ids.push(own.id);
        }
        let mut known = ids.clone();
        known.sort_unstable();
        if let Some(pair) = known.windows(2).find(|pair| pair[0] == pair[1]) {
            let name = &self.registered(pair[0])?.name;
            return wrong(format!("momentum/{name}"), "occurs twice".into());
        }
        for own in self.variables().filter(|own| known.binary_search(&own.id).is_err()) {
            // A file does not name a variable without tensors.
            check_variable(&SavedVariable::new(own.name, own.shape), &own)?;
        }
        Ok(ids)
    }
}

impl<'a> From<VariableView<'a>> for SavedVariable<'a> {
    fn from(view: VariableView<'a>) -> Self {
        SavedVariable {
            momentum: view.momentum.map(Tensor::from),
            low: view.low.map(Tensor::from),
            ema: view.ema.map(Tensor::from),
            accumulator: view.accumulator.map(Tensor::from),
            shard: (Some(view.held.len()) != elements(view.shape)).then(|| view.held.clone()),
            ..SavedVariable::new(view.name, view.shape)
        }
    }
}

fn check_variable(saved: &SavedVariable<'_>, own: &VariableView<'_>) -> Result<(), Error> {
    check_elements(saved, own, own.held)
}

/// Checks that the saved state has the same kinds, dtypes and shape, and contains the wanted elements.
pub(super) fn check_elements(
    saved: &SavedVariable<'_>,
    own: &VariableView<'_>,
    wanted: &Range<usize>,
) -> Result<(), Error> {
    let state = SavedVariable::from(*own);
    let whole = 0..elements(&saved.shape).unwrap_or_default();
    let range = saved.shard.as_ref().unwrap_or(&whole);
    let holds_all = range.start <= wanted.start && wanted.end <= range.end;
    for section in SAVED_ROLES {
        let tensor = section.of(saved).as_ref().map(Tensor::to_ref);
        let expected = match section {
            // The parameter is the caller's, and optional.
            SavedRole::Parameter => tensor.map(|_| own.dtype),
            _ => section.of(&state).as_ref().map(Tensor::dtype),
        };
        let reason = match (tensor.map(|tensor| tensor.dtype()), expected) {
            (None, None) => continue,
            (found, expected) if found == expected && saved.shape == own.shape => match tensor {
                Some(tensor) if tensor.len() != range.len() => format!("has {} elements", tensor.len()),
                _ if !holds_all => {
                    let (held, range) = (own.held, range);
                    format!(
                        "has the elements {}..{}, and the optimizer has {}..{}",
                        range.start, range.end, held.start, held.end
                    )
                }
                _ => continue,
            },
            (found, expected) if found == expected => {
                format!("has the shape {:?}, and the variable has {:?}", saved.shape, own.shape)
            }
            (None, _) => "is missing".into(),
            (Some(_), None) => "is present, and the optimizer has none".into(),
            (Some(found), Some(expected)) => {
                let hint = if section == SavedRole::Momentum {
                    "; Checkpoint::convert_momentum converts it"
                } else {
                    ""
                };
                format!("is {found}, and must be {expected} as the optimizer's{hint}")
            }
        };
        return Err(Error::State { tensor: format!("{}{}", section.prefix(), own.name), reason });
    }
    Ok(())
}

/// Copies a part of a tensor. Requires that dtypes and lengths have been checked.
fn copy(from: &Option<Tensor<'_>>, part: Range<usize>, to: Option<TensorMut<'_>>) {
    if let (Some(from), Some(mut to)) = (from, to) {
        let alike = from.to_ref().range(part).is_ok_and(|from| to.copy_from(from));
        debug_assert!(alike, "the tensors have been checked");
    }
}

/// Copies the elements `from` of the saved tensors to the state, from its element `start` on.
pub(super) fn copy_state(
    saved: &SavedVariable<'_>,
    from: Range<usize>,
    state: VariableStateMut<'_>,
    start: usize,
) {
    fn part(to: Option<TensorMut<'_>>, places: Range<usize>) -> Option<TensorMut<'_>> {
        to.and_then(|to| to.range(places).ok())
    }
    let places = || start..start + from.len();
    copy(&saved.momentum, from.clone(), part(state.momentum, places()));
    copy(&saved.low, from.clone(), part(state.low.map(TensorMut::from), places()));
    copy(&saved.ema, from.clone(), part(state.ema.map(TensorMut::from), places()));
    copy(&saved.accumulator, from.clone(), part(state.accumulator.map(TensorMut::from), places()));
}
