//! A collective call: agree, reduce, step, gather.
//!
//! Nothing is written before the second agreement. An error before it is an error on all ranks, and the step is abandoned.
//! After it each rank writes its shard, and an error ends the job.

use std::ops::Range;

use half::bf16;
use lion::{BeginOptions, Metrics, Outcome, Statistics, StepId, TensorRef, VariableId};
use lion_kernels::STATISTICS_BLOCK;

use super::Sharded;
use super::gathered::{BLOCK_BYTES, Blocks, Parameters};
use crate::agreement::Field;
use crate::exchange::gather;
use crate::update::Gradient;
use crate::{Communicator, Error, Update};

/// The purpose of a call, which decides what its variables need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Steps: gradients count, and an average needs every variable.
    Step,
    /// An average needs every variable.
    Finalize,
    /// Saves or restores every variable.
    All,
    Gather,
}

/// A call, as this rank knows it before the ranks have agreed.
pub(super) struct Call {
    /// By variable, the update that has it.
    pub(super) places: Vec<Option<usize>>,
    /// By variable, whether it has a gradient.
    with_gradient: Vec<bool>,
    /// By variable, 1 if its gradient is the mean of leaves that are reduced here, else 0.
    reduced: Vec<usize>,
}

impl<C: Communicator> Sharded<C> {
    /// Averages the gradients of all leaves and applies the mean, as one call of [`Lion::apply`](lion::Lion::apply) on one
    /// process does. Then every rank has all parameters. Collective: all ranks name the same variables, and the same
    /// variables have a gradient. If parameters are gathered as they are stored, a rank reads only the elements that it owns.
    ///
    /// The metrics are those of one process, except the share of stalled elements: it is of a sample of the elements that
    /// this rank owns.
    ///
    /// The updates are put in the order of registration. With a moving average a call must name every variable: use
    /// [`Update::without_gradient`] for one without a gradient. A call without variables does nothing.
    ///
    /// # Errors
    /// The errors of [`Lion::apply`](lion::Lion::apply), on any rank; ranks that disagree; copies of parameters that differ,
    /// with [`Gather::Directions`](crate::Gather::Directions); a connection that fails. Nothing has changed then, except
    /// after [`Error::Aborted`].
    pub fn apply(&mut self, updates: &mut [Update<'_>]) -> Result<Metrics, Error> {
        self.require_whole()?;
        let prepared = self.prepare(updates, Purpose::Step);
        let call = self.agreed("apply", prepared)?;
        if updates.is_empty() {
            return Ok(self.optimizer.apply(&mut [])?);
        }
        let begun = self.reduce_and_begin(&call, updates);
        // The other ranks may wait for a rank that fails here.
        let begun = match begun {
            Err(error @ Error::Communication(_)) => return self.connected(Err(error)),
            Err(error) => return self.or_abort(Err(error)),
            Ok(begun) => begun,
        };
        let step = match self.agreed("a step of apply", begun.map(|step| (step, Vec::new()))) {
            Ok(step) => step,
            Err(error) => {
                self.optimizer.abandon();
                return Err(error);
            }
        };
        let stepped = self.step_and_gather(&call, step, updates);
        self.or_abort(stepped)
    }

    /// Gives every rank the parameters as their owners have them, for example at the start of a run. Collective: all ranks
    /// name the same variables. Gradients are ignored.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn gather_parameters(&mut self, updates: &mut [Update<'_>]) -> Result<(), Error> {
        self.require_whole()?;
        let prepared = self.prepare(updates, Purpose::Gather);
        let call = self.agreed("gather_parameters", prepared)?;
        let gathered = self.gather(&call, updates, |_| true);
        self.or_abort(gathered)
    }

    /// Sets each parameter to its moving average, as
    /// [`Lion::finalize_variable_values`](lion::Lion::finalize_variable_values) does. Collective.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn finalize_variable_values(&mut self, updates: &mut [Update<'_>]) -> Result<(), Error> {
        self.require_whole()?;
        let prepared = self.prepare(updates, Purpose::Finalize);
        let call = self.agreed("finalize_variable_values", prepared)?;
        let finalized = self.finalize_and_gather(&call, updates);
        self.or_abort(finalized)
    }

    fn finalize_and_gather(&mut self, call: &Call, updates: &mut [Update<'_>]) -> Result<(), Error> {
        let held = self.held();
        self.optimizer.finalize_variable_values(&mut call.own_updates(updates, &held, None, &mut [])?)?;
        self.gather(call, updates, |_| true)
    }

    /// Checks everything that this rank can know, and allocates what a step needs.
    pub(super) fn prepare(
        &mut self,
        updates: &mut [Update<'_>],
        purpose: Purpose,
    ) -> Result<(Call, Vec<Field>), Error> {
        let steps = purpose == Purpose::Step;
        updates.sort_by_key(|update| update.variable);
        let leaves = self.settings.leaves / self.communicator.size();
        let mut places = vec![None; self.variables.len()];
        let mut with_gradient = vec![false; self.variables.len()];
        let mut reduced = vec![0; self.variables.len()];
        let mut named = Vec::new();
        for (index, update) in updates.iter().enumerate() {
            let (number, variable) = self.registered(update.variable)?;
            update.check(&variable.name, variable.len, variable.dtype, leaves)?;
            if places[number].replace(index).is_some() {
                return Err(lion::Error::RepeatedVariable { name: variable.name.clone() }.into());
            }
            let gradient = if steps { update.gradient } else { Gradient::Missing };
            let first = gradient.first();
            with_gradient[number] = first.is_some();
            reduced[number] = usize::from(matches!(gradient, Gradient::Leaves(_)));
            named.push(match (gradient, first) {
                (Gradient::Mean(mean), _) => format!("{:?} in {}, averaged", variable.name, mean.dtype()),
                (_, Some(first)) => format!("{:?} in {}", variable.name, first.dtype()),
                (_, None) => format!("{:?} without one", variable.name),
            });
        }
        let averages = self.optimizer.config().use_ema && purpose != Purpose::Gather && !updates.is_empty();
        let missing = self.variables.iter().zip(&places).find(|(it, place)| place.is_none() && it.len > 0);
        match missing {
            Some((variable, _)) if purpose == Purpose::All => {
                return Err(Error::Setting {
                    name: "the number of variables of the call",
                    value: format!("{}, without {:?}", updates.len(), variable.name),
                    allowed: "all of them".into(),
                });
            }
            Some((variable, _)) if averages => {
                return Err(lion::Error::MissingVariable { name: variable.name.clone() }.into());
            }
            _ => {}
        }
        if steps && !updates.is_empty() {
            if !with_gradient.contains(&true) {
                return Err(lion::Error::NoGradients.into());
            }
            self.reduction.reserve(&self.layout, self.communicator.rank(), &reduced)?;
            self.reserve_directions(&with_gradient)?;
        }
        let rates: Vec<_> = self
            .optimizer
            .step_hyperparameters()
            .enumerate()
            .map(|(group, rates)| format!("group {group}: {rates:?}"))
            .collect();
        let state = (self.optimizer.iterations(), self.optimizer.dynamic_loss_scale());
        let mut fields = vec![
            Field { name: "the iteration and the dynamic loss scale", text: format!("{state:?}") },
            Field { name: "the gradients", text: named.join("\n") },
            Field { name: "the hyperparameters", text: rates.join("\n") },
        ];
        if steps && self.compares_parameters() {
            fields.push(Field { name: "the parameters", text: self.digests(updates) });
        }
        Ok((Call { places, with_gradient, reduced }, fields))
    }

    /// The outer error ends the job. The inner one is told to all ranks.
    fn reduce_and_begin(
        &mut self,
        call: &Call,
        updates: &[Update<'_>],
    ) -> Result<Result<StepId, Error>, Error> {
        let gradients: Vec<Gradient<'_>> = call
            .places
            .iter()
            .map(|place| {
                place.and_then(|index| updates.get(index)).map_or(Gradient::Missing, |it| it.gradient)
            })
            .collect();
        let leaves = gradients.iter().map(|gradient| match gradient {
            Gradient::Leaves(leaves) => *leaves,
            _ => &[],
        });
        let leaves: Vec<_> = leaves.collect();
        self.reduction.run(&mut self.communicator, &self.layout, &call.reduced, &leaves)?;
        let statistics = match self.needs_statistics() {
            true => Some(self.measure(call, &gradients)?),
            false => None,
        };
        let options =
            BeginOptions { statistics: statistics.as_ref(), elsewhere: true, ..BeginOptions::default() };
        Ok(self.optimizer.begin(options).map_err(Error::from))
    }

    /// Whether the next step needs the statistics of its gradients when it begins.
    fn needs_statistics(&self) -> bool {
        let config = self.optimizer.config();
        let calls = u64::from(config.gradient_accumulation_steps.unwrap_or(1).max(1));
        let updates = self.optimizer.iterations() % calls == calls - 1;
        let by_norm = config.clipnorm.is_some() || config.global_clipnorm.is_some();
        by_norm && updates || config.dynamic_loss_scale.is_some()
    }

    /// The statistics of all gradients: each rank measures those of its shard.
    fn measure(&mut self, call: &Call, given: &[Gradient<'_>]) -> Result<Statistics, Error> {
        let rank = self.communicator.rank();
        let mut statistics = self.optimizer.statistics()?;
        let mean = self.reduction.mean();
        let (mut gradients, mut start) = (Vec::new(), 0);
        for segment in self.layout.shard(rank) {
            let given = given.get(segment.variable).copied().unwrap_or(Gradient::Missing);
            if let Some(values) = own_gradient(given, mean, &mut start, &segment.range)? {
                let gradient = lion::Gradient::new(self.ids[segment.variable], values);
                gradients.push(gradient.range(segment.range.clone()));
            }
        }
        self.optimizer.measure(&mut statistics, &mut gradients)?;
        let segments = |rank| self.layout.shard(rank).iter().filter(|it| call.has_gradient(it.variable));
        let own = segments(rank).flat_map(|segment| {
            let blocks = statistics.blocks(self.ids[segment.variable]).unwrap_or_default();
            &blocks[segment.range.start / STATISTICS_BLOCK..segment.range.end.div_ceil(STATISTICS_BLOCK)]
        });
        let mut blocks = Blocks::new(own, self.layout.ranks());
        let lengths: Vec<_> = (0..self.layout.ranks())
            .map(|rank| {
                segments(rank).map(|it| it.range.len().div_ceil(STATISTICS_BLOCK) * BLOCK_BYTES).sum()
            })
            .collect();
        gather(&mut self.communicator, self.settings.bucket_bytes, &lengths, &mut blocks)?;
        for other in (0..self.layout.ranks()).filter(|&other| other != rank) {
            let blocks = blocks.of(other);
            let mut rest = &blocks[..];
            for segment in segments(other) {
                let (next, after) = rest.split_at(segment.range.len().div_ceil(STATISTICS_BLOCK));
                rest = after;
                statistics.set_blocks(
                    self.ids[segment.variable],
                    segment.range.start / STATISTICS_BLOCK,
                    next,
                )?;
            }
        }
        Ok(statistics)
    }

    fn step_and_gather(
        &mut self,
        call: &Call,
        step: StepId,
        updates: &mut [Update<'_>],
    ) -> Result<Metrics, Error> {
        let held: Vec<_> = self.held();
        let follows = self.gathers_directions() && self.optimizer.outcome(step)? == Outcome::Updated;
        let directions = if follows { self.room.own(call.elements(&held))? } else { &mut [] };
        let mut own = call.own_updates(updates, &held, Some(self.reduction.mean()), directions)?;
        self.optimizer.part(step, &mut own)?;
        drop(own);
        if follows {
            self.follow(call, step, updates)?;
        }
        let metrics = self.optimizer.finish(step)?;
        if follows {
            return Ok(metrics);
        }
        let config = self.optimizer.config();
        let overwrites = config.use_ema && config.ema_overwrite_frequency.is_some();
        let constrained: Vec<_> = self.variables.iter().map(|variable| variable.constrained).collect();
        let constrained = |variable: usize| constrained.get(variable) == Some(&true);
        self.gather(call, updates, |variable| match metrics.outcome {
            Outcome::Updated => overwrites || call.has_gradient(variable),
            // A call that only accumulates constrains its variables all the same.
            Outcome::Accumulated => overwrites || constrained(variable) && call.has_gradient(variable),
            _ => false,
        })?;
        Ok(metrics)
    }

    /// By variable, the elements that this rank holds.
    fn held(&self) -> Vec<(VariableId, Range<usize>)> {
        let rank = self.communicator.rank();
        self.ids.iter().enumerate().map(|(index, &id)| (id, self.layout.held(rank, index))).collect()
    }

    /// Gives every rank the parameters of the call that have moved.
    pub(super) fn gather(
        &mut self,
        call: &Call,
        updates: &mut [Update<'_>],
        moved: impl Fn(usize) -> bool,
    ) -> Result<(), Error> {
        let given = |index: usize| call.places.get(index).is_some_and(Option::is_some) && moved(index);
        let units = self.variables.iter().enumerate();
        let units: Vec<_> = units.map(|(index, it)| if given(index) { it.dtype.size() } else { 0 }).collect();
        let rank = self.communicator.rank();
        let mut parameters = Parameters::new(updates, &call.places, &self.layout, rank, &units);
        let lengths = parameters.lengths();
        Ok(gather(&mut self.communicator, self.settings.bucket_bytes, &lengths, &mut parameters)?)
    }
}

impl Call {
    pub(super) fn has_gradient(&self, variable: usize) -> bool {
        self.with_gradient.get(variable) == Some(&true)
    }

    /// The elements that this rank steps.
    fn elements(&self, held: &[(VariableId, Range<usize>)]) -> usize {
        let stepped = held.iter().enumerate().filter(|(variable, _)| self.has_gradient(*variable));
        stepped.map(|(_, (_, held))| held.len()).sum()
    }

    /// This rank's part of each update, with its part of the mean gradients if there are such, and of the directions if
    /// there is room for them. The updates are in order.
    fn own_updates<'a>(
        &self,
        updates: &'a mut [Update<'_>],
        held: &[(VariableId, Range<usize>)],
        mean: Option<TensorRef<'a>>,
        mut directions: &'a mut [bf16],
    ) -> Result<Vec<lion::Update<'a>>, Error> {
        let (mut own, mut start) = (Vec::new(), 0);
        let mut updates = updates.iter_mut();
        let named = self.places.iter().enumerate().filter(|(_, place)| place.is_some());
        for ((index, _), update) in named.zip(&mut updates) {
            let Some((id, held)) = held.get(index).filter(|(_, held)| !held.is_empty()) else { continue };
            let parameter = update.parameter.reborrow().range(held.clone())?;
            let gradient = match mean {
                Some(mean) => own_gradient(update.gradient, mean, &mut start, held)?,
                None => None,
            };
            let update = match gradient {
                Some(gradient) => {
                    let update = lion::Update::new(*id, parameter, gradient);
                    match std::mem::take(&mut directions).split_at_mut_checked(held.len()) {
                        Some((next, rest)) => {
                            directions = rest;
                            update.direction(next)
                        }
                        None => update,
                    }
                }
                None => lion::Update::without_gradient(*id, parameter),
            };
            own.push(update.range(held.clone()));
        }
        Ok(own)
    }
}

/// The elements of a gradient that a rank owns: the next of the means that were reduced here, from `start` on, or a range
/// of the mean that was given.
fn own_gradient<'a>(
    given: Gradient<'a>,
    mean: TensorRef<'a>,
    start: &mut usize,
    held: &Range<usize>,
) -> Result<Option<TensorRef<'a>>, Error> {
    Ok(match given {
        Gradient::Missing => None,
        Gradient::Mean(mean) => Some(mean.range(held.clone())?),
        Gradient::Leaves(_) => {
            let end = *start + held.len();
            let own = mean.range(*start..end)?;
            *start = end;
            Some(own)
        }
    })
}
