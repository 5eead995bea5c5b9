//! Searches the plan of one case.

use std::time::Duration;

use fastrand::Rng;
use lion_kernels::{Backend, Plan};

use super::race::{Outcome, Rounds, Runner, race};
use super::{CaseResult, MIN_GAIN, MIN_ROUNDS, Measurement, part};
use crate::Error;
use crate::candidate::{Space, describe};
use crate::case::Case;
use crate::machine::Machine;
use crate::measure::{Bench, Caches, bootstrap, midmean};

/// The rounds of the race between backends, and how far a backend may be behind the best: the logarithm of about 1.25.
const BACKEND_ROUNDS: usize = 8;
const BACKEND_BEHIND: f64 = 0.22;

/// The numbers of samples that must fit into the time of a case for the whole search, and for the search without the grid.
/// With fewer samples, the plan of the next smaller case goes straight to the duel.
const ENOUGH_FOR_A_GRID: f64 = 200.0;
const ENOUGH_FOR_A_CLIMB: f64 = 60.0;

/// The number of candidates of the coarse grid that climb.
const CLIMBERS: usize = 4;
/// The maximum number of steps of a climb.
const MAX_STEPS: usize = 8;

/// Plans count as equally fast if the logarithm of the ratio of their times is below this.
const PRECISION: f64 = 0.005;

/// The maximum and the minimum number of rounds in which the chosen plan is compared with the bandwidth bound.
const BOUND_ROUNDS: usize = 15;
const MIN_BOUND_ROUNDS: usize = 5;

/// The search for the plan of one case, on a bench.
pub(super) struct Search<'a, B: Bench + ?Sized> {
    pub(super) bench: &'a mut B,
    pub(super) space: &'a Space,
    pub(super) rng: &'a mut Rng,
    pub(super) case: Case,
    pub(super) caches: &'static [Caches],
    pub(super) rounds: usize,
    /// The plan that runs without a profile.
    pub(super) baseline: Plan,
    measurements: Vec<Measurement>,
}

/// Returns the states of the caches in which a case is measured. A call beyond the caches is always cold.
pub(super) fn caches_of(case: &Case, machine: &Machine) -> &'static [Caches] {
    match case.bytes as u64 > machine.beyond_caches() {
        true => &[Caches::Cold],
        false => &[Caches::Warm, Caches::Cold],
    }
}

impl<'a, B: Bench + ?Sized> Search<'a, B> {
    pub(super) fn new(
        bench: &'a mut B,
        space: &'a Space,
        rng: &'a mut Rng,
        machine: &Machine,
        case: Case,
        rounds: usize,
        baseline: Plan,
    ) -> Result<Self, Error> {
        bench.prepare(&case)?;
        let caches = caches_of(&case, machine);
        let baseline = space.effective(&case, &baseline);
        Ok(Search { bench, space, rng, case, caches, rounds, baseline, measurements: Vec::new() })
    }

    /// Searches for about `time`. `hint` is the plan of the next smaller case.
    pub(super) fn run(mut self, time: Duration, hint: Option<Plan>) -> Result<CaseResult, Error> {
        let begin = self.bench.now();
        let after = |share: f64| begin.saturating_add(part(time, share));

        let hint = hint.unwrap_or(self.baseline);
        let samples = self.affordable(time, hint, after(0.3))?;
        let mut best = vec![hint];
        if samples >= ENOUGH_FOR_A_GRID {
            best = self.grid(hint, after(0.2), after(0.45))?;
        }
        let best = match samples >= ENOUGH_FOR_A_CLIMB {
            true => self.climb(best, after(0.75))?,
            false => hint,
        };
        let result = self.duel(best, after(0.95))?;
        self.with_bound(result, after(1.0))
    }

    /// Returns the number of samples that fit into the time.
    fn affordable(&mut self, time: Duration, hint: Plan, until: Duration) -> Result<f64, Error> {
        let begin = self.bench.now();
        let outcome = self.race(vec![self.baseline, hint], 2, 1, until)?;
        let samples: usize = outcome.runners.iter().map(Runner::rounds).sum();
        let spent = self.bench.now().saturating_sub(begin).as_secs_f64();
        Ok(time.as_secs_f64() * samples as f64 / spent.max(1e-9))
    }

    /// Returns the best plans of a coarse grid, on the fast backends.
    fn grid(&mut self, hint: Plan, backends: Duration, until: Duration) -> Result<Vec<Plan>, Error> {
        let backends = self.backends(backends)?;
        let mut plans = vec![self.baseline, hint];
        plans.extend(self.space.coarse(&self.case).into_iter().filter(|it| backends.contains(&it.backend)));
        let mut best = self.race(plans, 1, self.rounds.min(40), until)?.survivors();
        best.truncate(CLIMBERS);
        Ok(best)
    }

    /// Returns the fast backends.
    fn backends(&mut self, until: Duration) -> Result<Vec<Backend>, Error> {
        let mut plans = vec![self.baseline];
        for &backend in self.space.backends() {
            plans.push(self.baseline.backend(backend));
            plans.push(Plan::new(backend).threads(1));
        }
        let outcome = self.race(plans, 1, BACKEND_ROUNDS, until)?;
        let scored = outcome.runners.iter().filter(|runner| runner.rounds() > 0);
        let scored: Vec<_> = scored.map(|it| (it.plan.backend, midmean(&mut it.scores()))).collect();
        let best = scored.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
        let near = scored.iter().filter(|(_, score)| score - best < BACKEND_BEHIND);
        Ok(near.map(|(backend, _)| *backend).chain([self.baseline.backend]).collect())
    }

    /// Starts at the best of some plans, and moves to the best neighbour until no neighbour is better.
    fn climb(&mut self, mut plans: Vec<Plan>, until: Duration) -> Result<Plan, Error> {
        let mut best = plans.first().copied().unwrap_or(self.baseline);
        for _ in 0..MAX_STEPS {
            plans.insert(0, self.baseline);
            plans.push(best);
            plans.extend(self.space.around(&self.case, &best));
            let outcome = self.race(std::mem::take(&mut plans), 1, self.rounds, until)?;
            let leader = outcome.leader.and_then(|index| outcome.runners.get(index)).map(|it| it.plan);
            match leader {
                Some(leader) if leader != best => best = leader,
                _ => break,
            }
        }
        Ok(best)
    }

    /// Compares the best plan with the baseline, and returns the winner.
    fn duel(&mut self, best: Plan, until: Duration) -> Result<CaseResult, Error> {
        let outcome = self.race(vec![self.baseline, best], 2, self.rounds, until)?;
        let mut result = CaseResult::of_baseline(self.case, self.baseline);
        let Some(baseline) = outcome.runners.first() else { return Ok(result) };
        let winner = outcome.runners.get(1).filter(|it| self.wins(it, baseline)).unwrap_or(baseline);
        if winner.rounds() > 0 {
            let nanoseconds = |it: &Runner| midmean(&mut it.scores()).exp();
            let (low, high) = bootstrap(&winner.scores(), self.rng);
            result.plan = winner.plan;
            result.nanoseconds = Some(nanoseconds(winner));
            result.interval = Some([low.exp(), high.exp()]);
            result.baseline_nanoseconds = Some(nanoseconds(baseline));
        }
        Ok(result)
    }

    /// Returns whether a runner beats the baseline by more than the noise and by [`MIN_GAIN`].
    fn wins(&mut self, runner: &Runner, baseline: &Runner) -> bool {
        let mut behind = runner.against(baseline);
        let (_, high) = bootstrap(&behind, self.rng);
        behind.len() >= MIN_ROUNDS && high < 0.0 && midmean(&mut behind) < (1.0 - MIN_GAIN).ln()
    }

    /// Adds the bandwidth bound to a result.
    fn with_bound(self, mut result: CaseResult, until: Duration) -> Result<CaseResult, Error> {
        let mut ratios = Vec::new();
        'rounds: for _ in 0..BOUND_ROUNDS {
            let mut ratio = 0.0;
            for &caches in self.caches {
                if self.bench.now() >= until {
                    break 'rounds;
                }
                let calls = self
                    .measurement(&result.plan)
                    .map_or(1, |measurement| measurement.calls(caches, self.bench.min_sample_time()));
                let Some(bound) = self.bench.bandwidth_bound(&result.plan, caches, calls)? else {
                    break 'rounds;
                };
                let time = self.bench.calls(&result.plan, caches, calls)?;
                ratio += (bound.as_nanos().max(1) as f64 / time.as_nanos().max(1) as f64).ln();
            }
            ratios.push(ratio / self.caches.len() as f64);
        }
        if let (true, Some(nanoseconds)) = (ratios.len() >= MIN_BOUND_ROUNDS, result.nanoseconds) {
            result.bound_nanoseconds = Some(nanoseconds * midmean(&mut ratios).exp());
        }
        result.measurements = self.measurements;
        Ok(result)
    }

    fn measurement(&self, plan: &Plan) -> Option<&Measurement> {
        self.measurements.iter().find(|measurement| measurement.plan == *plan)
    }

    /// Checks plans and races them. Plans with the same effect race once. The first `kept` plans stay in to the end.
    pub(super) fn race(
        &mut self,
        plans: Vec<Plan>,
        kept: usize,
        max_rounds: usize,
        until: Duration,
    ) -> Result<Outcome, Error> {
        let mut different: Vec<Plan> = Vec::new();
        for plan in plans {
            let plan = self.space.effective(&self.case, &plan);
            if !different.contains(&plan) {
                self.check(&plan)?;
                different.push(plan);
            }
        }
        let rounds = Rounds { max: max_rounds, precision: PRECISION, until };
        let outcome = race(self.bench, self.caches, &different, kept.min(different.len()), rounds, self.rng)?;
        for runner in &outcome.runners {
            self.add_samples(runner);
        }
        Ok(outcome)
    }

    fn check(&mut self, plan: &Plan) -> Result<(), Error> {
        if self.bench.check(plan)? {
            return Ok(());
        }
        Err(Error::WrongBits { case: self.case.to_string(), plan: describe(plan) })
    }

    fn add_samples(&mut self, runner: &Runner) {
        let index = match self.measurements.iter().position(|measurement| measurement.plan == runner.plan) {
            Some(index) => index,
            None => {
                self.measurements.push(Measurement::new(runner.plan));
                self.measurements.len() - 1
            }
        };
        let measurement = &mut self.measurements[index];
        for (caches, samples) in self.caches.iter().zip(&runner.samples) {
            match caches {
                Caches::Warm => measurement.warm.extend(samples),
                Caches::Cold => measurement.cold.extend(samples),
            }
        }
    }
}
