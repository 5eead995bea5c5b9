//! Moves copies of parameters by the directions of a step that another optimizer makes.

use lion_autotune::Operation;
use lion_kernels::{Task, with_ieee_state};

use super::batch::TaskBatch;
use super::{Lion, Scratch, StepId};
use crate::{Error, Outcome, Update};

impl Lion {
    /// Moves elements that another optimizer holds, as that optimizer moves its own copy: each update has the directions
    /// that [`Update::direction`] wrote there, in place of a gradient. Decay, learning rate, rounding and a constraint are
    /// those of the open step, so the bits are the same if the two optimizers have the same options and both copies the
    /// same bits before. Of a NaN the sign and payload may differ. The state does not change.
    ///
    /// ```
    /// use lion::{BeginOptions, Dtype, Lion, Update, VariableOptions};
    ///
    /// // One optimizer holds all elements, the other none.
    /// let (mut owner, mut replica) = (Lion::builder().build()?, Lion::builder().build()?);
    /// let weights = owner.register("weights", &[3], Dtype::F32)?;
    /// let none = VariableOptions { shard: Some(0..0), ..Default::default() };
    /// replica.register_with("weights", &[3], Dtype::F32, none)?;
    ///
    /// let (mut parameter, mut directions) = ([1.0_f32, 2.0, 3.0], [0.0_f32; 3]);
    /// let mut copy = parameter;
    /// let update = Update::new(weights, &mut parameter, &[0.5_f32, -0.5, 0.0]);
    /// owner.apply(&mut [update.direction(&mut directions)])?;
    ///
    /// let step = replica.begin(BeginOptions { elsewhere: true, ..Default::default() })?;
    /// replica.follow(step, &mut [Update::new(weights, &mut copy, &directions).range(0..3)])?;
    /// replica.finish(step)?;
    /// assert_eq!(copy, parameter);
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// A step that is not open, or moves no parameter; tensors that do not fit; a parameter with low halves; a moving
    /// average that overwrites parameters. Nothing has been changed then. That no element follows twice is the caller's
    /// duty.
    pub fn follow(&mut self, step: StepId, updates: &mut [Update<'_>]) -> Result<(), Error> {
        with_ieee_state(|| self.follow_in_ieee_state(step, updates))
    }

    fn follow_in_ieee_state(&mut self, step: StepId, updates: &mut [Update<'_>]) -> Result<(), Error> {
        let context = self.open_step(step)?.context;
        if context.outcome != Outcome::Updated {
            let outcome = format!("{:?}", context.outcome);
            return Err(Error::argument("the outcome of the step", outcome, "Updated, to follow directions"));
        }
        if let (true, Some(frequency)) = (self.config.use_ema, self.config.ema_overwrite_frequency) {
            let allowed = "none, to follow directions";
            return Err(Error::argument("ema_overwrite_frequency", frequency, allowed));
        }
        for update in updates.iter() {
            let (index, registered) = (update.variable.0, self.variables.len());
            let Some(variable) = self.variables.get(index) else {
                return Err(Error::UnknownVariable { index, registered });
            };
            let range = update.elements();
            variable.check_followed(&range)?;
            variable.check_parameter("parameter", &update.parameter.to_ref(), range.len())?;
            let Some(directions) = &update.gradient else { return Err(Error::NoGradients) };
            variable.check_direction(directions, range.len())?;
            self.scratch.constraint.reserve(variable, range.len())?;
        }
        let Scratch { steps, tasks, constraint, .. } = &mut self.scratch;
        let mut batch =
            TaskBatch::new(&self.profile, self.host.as_ref(), Operation::Step, tasks, updates.len());
        for update in updates.iter_mut() {
            let variable = &self.variables[update.variable.0];
            let (Some(directions), start) = (update.gradient, update.start() as u64) else { continue };
            let step = context.step_of(variable, &steps[variable.group.0]);
            let task = Task::follow(step, update.parameter.reborrow(), directions);
            let task =
                task.and_then(|task| if step.is_stochastic() { task.starting_at(start) } else { Ok(task) });
            task.and_then(|task| batch.push(task)).map_err(|source| variable.error(source))?;
        }
        batch.finish(tasks)?;
        for update in updates.iter_mut() {
            context.constrain(&self.variables[update.variable.0], update, None, constraint)?;
        }
        Ok(())
    }
}
