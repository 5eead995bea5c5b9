//! Random trainings, run twice: with whole steps, and with steps in randomly chosen parts, on one optimizer or on
//! several that each hold a shard. Both runs must give the same bits.

use std::ops::Range;

use lion::{
    BeginOptions, Error, Gradient, Lion, Metrics, Statistics, TensorBuf, TensorRef, Update, VariableId,
};
use lion_kernels::{Backend, STATISTICS_BLOCK};

use crate::model::Rule;
use crate::scenario::{Scenario, Variable};
use crate::{Rng, checkpoint_text, tensor_bits};

/// One rank of a training: an optimizer that holds a shard.
struct Rank {
    optimizer: Lion,
    ids: Vec<VariableId>,
    /// The held elements of each variable, and their values.
    held: Vec<Range<usize>>,
    parameters: Vec<TensorBuf>,
}

/// Panics unless every split into parts gives the result of one whole step.
pub fn agrees_in_parts(scenario: &Scenario, backend: Backend, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let mut whole =
        Rank::new(scenario, backend, scenario.variables.iter().map(|it| 0..it.values.len()).collect());
    let shardable = |it: &Variable| !it.overwritten && matches!(it.rule, None | Some(Rule::NonNegative));
    let count = if scenario.variables.iter().all(shardable) { rng.usize(1..=3) } else { 1 };
    let mut ranks = whole.cut(scenario, backend, count, &mut rng);
    for call in 0..scenario.gradients.len() {
        if rng.u8(0..4) == 0 {
            ranks = whole.cut(scenario, backend, count, &mut rng);
        }
        let updates = &mut scenario.updates(call, &whole.ids, &mut whole.parameters);
        let expected = whole.optimizer.apply(updates).expect("applied");
        let statistics = measured_by_all(scenario, &mut ranks, call, &mut rng);
        for rank in &mut ranks {
            let metrics = rank.step(scenario, call, &statistics, count > 1, &mut rng).expect("stepped");
            // Metrics of stalled parameters are not compared: each rank samples its own.
            let told = |metrics: &Metrics| {
                let mut metrics = *metrics;
                metrics.stalled_fraction = None;
                format!("{metrics:?}")
            };
            assert_eq!(told(&metrics), told(&expected), "call {call} of {scenario:?}, cut by {seed}");
            rank.must_agree_with(&whole, || {
                format!("call {call} of {scenario:?} on {backend}, cut by {seed}")
            });
        }
    }
}

/// Returns the statistics of the step's gradients, with each block measured by the rank that holds it.
fn measured_by_all(scenario: &Scenario, ranks: &mut [Rank], call: usize, rng: &mut Rng) -> Statistics {
    let mut all = ranks[0].optimizer.statistics().expect("memory");
    for rank in ranks {
        let mut own = rank.optimizer.statistics().expect("memory");
        let mut gradients = Vec::new();
        for (index, gradient) in scenario.gradients[call].iter().enumerate() {
            let Some(gradient) = gradient else { continue };
            for range in cuts(rng, &rank.held[index], STATISTICS_BLOCK) {
                let values = gradient.to_ref().range(range.clone()).expect("within");
                gradients.push(Gradient::new(rank.ids[index], values).range(range));
            }
        }
        rng.shuffle(&mut gradients);
        let at = rng.usize(0..=gradients.len());
        let (first, second) = gradients.split_at_mut(at);
        for gradients in [first, second] {
            rank.optimizer.measure(&mut own, gradients).expect("measured");
        }
        all.merge(&own).expect("of the same step");
    }
    all
}

/// Splits a range randomly, at multiples of `unit` elements.
fn cuts(rng: &mut Rng, range: &Range<usize>, unit: usize) -> Vec<Range<usize>> {
    let mut places: Vec<_> =
        (0..rng.usize(0..3)).map(|_| rng.usize(range.start..=range.end) / unit * unit).collect();
    places.extend([range.start, range.end]);
    places.retain(|&place| range.start <= place);
    places.sort_unstable();
    places.dedup();
    match places.len() {
        1 => vec![range.clone()],
        _ => places.windows(2).map(|pair| pair[0]..pair[1]).collect(),
    }
}

impl Rank {
    fn new(scenario: &Scenario, backend: Backend, held: Vec<Range<usize>>) -> Self {
        let config = scenario.config().expect("a config in its ranges");
        let mut optimizer = scenario.optimizer(config, backend).expect("a config in its ranges");
        let (mut ids, mut parameters) = (Vec::new(), Vec::new());
        for (variable, held) in scenario.variables.iter().zip(&held) {
            let mut options = variable.options(&mut optimizer).expect("valid");
            options.shard = (held.len() < variable.values.len()).then(|| held.clone());
            let dtype = variable.values.dtype();
            let id = optimizer.register_with(&variable.name, &variable.shape, dtype, options);
            ids.push(id.expect("registered"));
            parameters.push(part_of(variable.values.to_ref(), held));
        }
        Rank { optimizer, ids, held, parameters }
    }

    /// Splits this optimizer's state and variables over several ranks.
    fn cut(&self, scenario: &Scenario, backend: Backend, count: usize, rng: &mut Rng) -> Vec<Rank> {
        let mut places = vec![vec![0; count + 1]; scenario.variables.len()];
        for (places, variable) in places.iter_mut().zip(&scenario.variables) {
            let len = variable.values.len();
            places[1..].fill_with(|| (rng.usize(0..=len) / STATISTICS_BLOCK * STATISTICS_BLOCK).min(len));
            places[count] = len;
            places.sort_unstable();
        }
        let checkpoint = self.optimizer.checkpoint().expect("no open step");
        let rank = |index: usize| {
            let mut rank =
                Rank::new(scenario, backend, places.iter().map(|it| it[index]..it[index + 1]).collect());
            rank.optimizer.restore(&checkpoint).expect("restored");
            for ((own, held), parameter) in rank.parameters.iter_mut().zip(&rank.held).zip(&self.parameters) {
                *own = part_of(parameter.to_ref(), held);
            }
            rank
        };
        (0..count).map(rank).collect()
    }

    /// Performs one step in parts.
    fn step(
        &mut self,
        scenario: &Scenario,
        call: usize,
        statistics: &Statistics,
        elsewhere: bool,
        rng: &mut Rng,
    ) -> Result<Metrics, Error> {
        let gradients = &scenario.gradients[call];
        let overwrites = |(gradient, variable): (&Option<TensorBuf>, &Variable)| {
            gradient.is_none() || variable.overwritten
        };
        let only_overwrites = gradients.iter().zip(&scenario.variables).all(overwrites);
        let options = BeginOptions { statistics: Some(statistics), only_overwrites, elsewhere };
        let step = self.optimizer.begin(options)?;
        let mut updates = Vec::new();
        for (index, parameter) in self.parameters.iter_mut().enumerate() {
            let (variable, held, gradient) =
                (&scenario.variables[index], &self.held[index], &gradients[index]);
            let whole =
                variable.overwritten || matches!(variable.rule, Some(Rule::MaxNorm(_) | Rule::Halved));
            let ranges = if whole { vec![held.clone()] } else { cuts(rng, held, scenario.unit()) };
            let mut rest = parameter.to_mut();
            for range in ranges {
                let (part, after) = rest.split_at(range.len()).expect("within");
                rest = after;
                let update = match gradient {
                    Some(gradient) => {
                        let gradient = gradient.to_ref().range(range.clone()).expect("within");
                        Update::new(self.ids[index], part, gradient)
                    }
                    None if scenario.options.ema_momentum.is_none() && rng.bool() => continue,
                    None => Update::without_gradient(self.ids[index], part),
                };
                // A whole variable may be given with or without its range.
                let is_whole = range == (0..variable.values.len()) && rng.bool();
                updates.push(if is_whole { update } else { update.range(range) });
            }
        }
        rng.shuffle(&mut updates);
        while !updates.is_empty() {
            let mut part = updates.split_off(rng.usize(0..updates.len()));
            self.optimizer.part(step, &mut part)?;
        }
        self.optimizer.finish(step)
    }

    /// Panics unless all held elements equal those of `whole`.
    fn must_agree_with(&self, whole: &Rank, place: impl Fn() -> String) {
        let same = |found: Option<TensorRef<'_>>, expected: Option<TensorRef<'_>>, held: &Range<usize>| {
            let expected = expected.map(|it| tensor_bits(it.range(held.clone()).expect("within")));
            found.map(tensor_bits) == expected
        };
        for (index, held) in self.held.iter().enumerate() {
            let (found, expected) =
                (self.optimizer.view(self.ids[index]), whole.optimizer.view(whole.ids[index]));
            let (found, expected) = (found.expect("registered"), expected.expect("registered"));
            let parameters = (Some(self.parameters[index].to_ref()), Some(whole.parameters[index].to_ref()));
            assert!(same(parameters.0, parameters.1, held), "parameter {index} in {}", place());
            assert!(same(found.momentum, expected.momentum, held), "momentum {index} in {}", place());
            let low = (found.low.map(Into::into), expected.low.map(Into::into));
            assert!(same(low.0, low.1, held), "low halves {index} in {}", place());
            assert!(
                same(found.ema.map(Into::into), expected.ema.map(Into::into), held),
                "EMA {index} in {}",
                place()
            );
            let accumulators = (found.accumulator.map(Into::into), expected.accumulator.map(Into::into));
            assert!(same(accumulators.0, accumulators.1, held), "accumulator {index} in {}", place());
        }
        let text = |rank: &Rank| {
            let mut checkpoint = rank.optimizer.checkpoint().expect("no open step");
            checkpoint.variables.clear();
            checkpoint_text(&checkpoint)
        };
        assert_eq!(text(self), text(whole), "in {}", place());
    }
}

fn part_of(values: TensorRef<'_>, range: &Range<usize>) -> TensorBuf {
    let mut part = TensorBuf::zeroed(values.dtype(), range.len()).expect("memory");
    assert!(part.to_mut().copy_from(values.range(range.clone()).expect("within")));
    part
}
