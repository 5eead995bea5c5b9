//! Restores an optimizer from several checkpoints that hold different shards.

use std::ops::Range;

use super::Checkpoint;
use super::restore::{check_elements, copy_state};
use crate::variable::elements;
use crate::{Error, Lion, VariableId};

impl Lion {
    /// Restores the counters, and the elements that both the checkpoint and this optimizer hold, and returns these
    /// elements. For a state in several checkpoints, call it for each; the caller checks that no element is missing.
    ///
    /// # Errors
    /// As [`restore`](Self::restore), except that variables and elements may be missing. On an error nothing has changed.
    pub fn restore_part(
        &mut self,
        checkpoint: &Checkpoint<'_>,
    ) -> Result<Vec<(VariableId, Range<usize>)>, Error> {
        self.require_no_step()?;
        self.check_counters(checkpoint)?;
        let mut found = Vec::new();
        for saved in &checkpoint.variables {
            let Some(own) = self.variable(&saved.name).and_then(|id| self.view(id)) else {
                let tensor = format!("momentum/{}", saved.name);
                return Err(Error::State { tensor, reason: "the optimizer has no such variable".into() });
            };
            let saved_range = saved.shard.clone().unwrap_or(0..elements(&saved.shape).unwrap_or_default());
            let start = saved_range.start.max(own.held.start);
            let part = start..saved_range.end.min(own.held.end).max(start);
            check_elements(saved, &own, if part.is_empty() { &saved_range } else { &part })?;
            found.push((own.id, part));
        }
        self.restore_counters(checkpoint)?;
        for ((id, part), saved) in found.iter().zip(&checkpoint.variables) {
            let held = self.registered(*id)?.held.clone();
            let from = saved.shard.as_ref().map_or(0, |shard| shard.start);
            let state = self.state_mut(*id).expect("the variable has been found above");
            if !part.is_empty() {
                copy_state(saved, part.start - from..part.end - from, state, part.start - held.start);
            }
        }
        found.retain(|(_, part)| !part.is_empty());
        Ok(found)
    }
}
