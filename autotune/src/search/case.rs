//! The search for one case.

use std::time::Duration;

use fastrand::Rng;
use lion_kernels::{Backend, Plan};

use super::race::{Outcome, Rounds, Runner, race};
use super::{Finding, LEAST_GAIN, Trial, part};
use crate::Error;
use crate::candidate::{Space, describe};
use crate::case::Case;
use crate::machine::Machine;
use crate::measure::{Caches, Rig, bootstrap, midmean};

/// Rounds in which backends are compared, and what they may be behind: as a logarithm, about a quarter.
const BACKEND_ROUNDS: usize = 8;
const BACKEND_BEHIND: f64 = 0.22;

/// Samples that must fit into a case's time for the whole search, and for all but the grid. With fewer, what was found
/// for less goes into the duel at once.
const ENOUGH_FOR_A_GRID: f64 = 200.0;
const ENOUGH_FOR_A_CLIMB: f64 = 60.0;

/// Candidates of the coarse grid that climb.
const CLIMBERS: usize = 4;
/// Steps of a climb.
const STEPS: usize = 8;

/// What is nearer than this, as a logarithm of a ratio of times, is as good.
const PRECISION: f64 = 0.005;

/// Rounds in which the chosen plan is compared with the streaming limit.
const LIMIT_ROUNDS: usize = 15;
const LEAST_LIMIT_ROUNDS: usize = 5;

/// The search for a plan for one case on a rig.
pub(super) struct Search<'a, R: Rig + ?Sized> {
    pub(super) rig: &'a mut R,
    pub(super) space: &'a Space,
    pub(super) rng: &'a mut Rng,
    pub(super) case: Case,
    pub(super) caches: &'static [Caches],
    pub(super) rounds: usize,
    /// What runs without a profile: candidate 0.
    pub(super) default: Plan,
    trials: Vec<Trial>,
}

/// Which states of the caches a case is measured in.
pub(super) fn caches_of(case: &Case, machine: &Machine) -> &'static [Caches] {
    match case.bytes as u64 > machine.beyond_caches() {
        true => &[Caches::Cold],
        false => &[Caches::Warm, Caches::Cold],
    }
}

impl<'a, R: Rig + ?Sized> Search<'a, R> {
    pub(super) fn new(
        rig: &'a mut R,
        space: &'a Space,
        rng: &'a mut Rng,
        machine: &Machine,
        case: Case,
        rounds: usize,
        default: Plan,
    ) -> Result<Self, Error> {
        rig.prepare(&case)?;
        let caches = caches_of(&case, machine);
        let default = space.effective(&case, &default);
        Ok(Search { rig, space, rng, case, caches, rounds, default, trials: Vec::new() })
    }

    /// Searches for about so long. `hint` is what was found for less.
    pub(super) fn run(mut self, time: Duration, hint: Option<Plan>) -> Result<Finding, Error> {
        let begin = self.rig.now();
        let after = |share: f64| begin.saturating_add(part(time, share));

        let hint = hint.unwrap_or(self.default);
        let samples = self.affordable(time, hint, after(0.3))?;
        let mut best = vec![hint];
        if samples >= ENOUGH_FOR_A_GRID {
            best = self.grid(hint, after(0.2), after(0.45))?;
        }
        let best = match samples >= ENOUGH_FOR_A_CLIMB {
            true => self.climb(best, after(0.75))?,
            false => hint,
        };
        let finding = self.duel(best, after(0.95))?;
        self.with_limit(finding, after(1.0))
    }

    /// How many samples fit into the time.
    fn affordable(&mut self, time: Duration, hint: Plan, until: Duration) -> Result<f64, Error> {
        let begin = self.rig.now();
        let outcome = self.race(vec![self.default, hint], 2, 1, until)?;
        let samples: usize = outcome.runners.iter().map(Runner::rounds).sum();
        let spent = self.rig.now().saturating_sub(begin).as_secs_f64();
        Ok(time.as_secs_f64() * samples as f64 / spent.max(1e-9))
    }

    /// The best of a coarse grid on the backends that come near the best.
    fn grid(&mut self, hint: Plan, backends: Duration, until: Duration) -> Result<Vec<Plan>, Error> {
        let backends = self.backends(backends)?;
        let mut plans = vec![self.default, hint];
        plans.extend(self.space.coarse(&self.case).into_iter().filter(|it| backends.contains(&it.backend)));
        let mut best = self.race(plans, 1, self.rounds.min(40), until)?.survivors();
        best.truncate(CLIMBERS);
        Ok(best)
    }

    /// The backends worth searching.
    fn backends(&mut self, until: Duration) -> Result<Vec<Backend>, Error> {
        let mut plans = vec![self.default];
        for &backend in self.space.backends() {
            plans.push(self.default.backend(backend));
            plans.push(Plan::new(backend).threads(1));
        }
        let outcome = self.race(plans, 1, BACKEND_ROUNDS, until)?;
        let scored = outcome.runners.iter().filter(|runner| runner.rounds() > 0);
        let scored: Vec<_> = scored.map(|it| (it.plan.backend, midmean(&mut it.scores()))).collect();
        let best = scored.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
        let near = scored.iter().filter(|(_, score)| score - best < BACKEND_BEHIND);
        Ok(near.map(|(backend, _)| *backend).chain([self.default.backend]).collect())
    }

    /// Goes from the best of some plans to the best near it, until that is itself.
    fn climb(&mut self, mut plans: Vec<Plan>, until: Duration) -> Result<Plan, Error> {
        let mut best = plans.first().copied().unwrap_or(self.default);
        for _ in 0..STEPS {
            plans.insert(0, self.default);
            plans.push(best);
            plans.extend(self.space.around(&self.case, &best));
            let outcome = self.race(std::mem::take(&mut plans), 1, self.rounds, until)?;
            let leader = outcome.leader.and_then(|place| outcome.runners.get(place)).map(|it| it.plan);
            match leader {
                Some(leader) if leader != best => best = leader,
                _ => break,
            }
        }
        Ok(best)
    }

    /// The winner against candidate 0.
    fn duel(&mut self, best: Plan, until: Duration) -> Result<Finding, Error> {
        let outcome = self.race(vec![self.default, best], 2, self.rounds, until)?;
        let mut finding = Finding::of_default(self.case, self.default);
        let Some(default) = outcome.runners.first() else { return Ok(finding) };
        let winner = outcome.runners.get(1).filter(|it| self.wins(it, default)).unwrap_or(default);
        if winner.rounds() > 0 {
            let nanoseconds = |it: &Runner| midmean(&mut it.scores()).exp();
            let (low, high) = bootstrap(&winner.scores(), self.rng);
            finding.plan = winner.plan;
            finding.nanoseconds = Some(nanoseconds(winner));
            finding.interval = Some([low.exp(), high.exp()]);
            finding.default_nanoseconds = Some(nanoseconds(default));
        }
        Ok(finding)
    }

    /// By more than the noise, and by enough to be worth it.
    fn wins(&mut self, runner: &Runner, default: &Runner) -> bool {
        const LEAST_ROUNDS: usize = 5;
        let mut behind = runner.against(default);
        let (_, high) = bootstrap(&behind, self.rng);
        behind.len() >= LEAST_ROUNDS && high < 0.0 && midmean(&mut behind) < (1.0 - LEAST_GAIN).ln()
    }

    fn with_limit(self, mut finding: Finding, until: Duration) -> Result<Finding, Error> {
        let mut ratios = Vec::new();
        'rounds: for _ in 0..LIMIT_ROUNDS {
            let mut ratio = 0.0;
            for &caches in self.caches {
                if self.rig.now() >= until {
                    break 'rounds;
                }
                let calls =
                    self.trial(&finding.plan).map_or(1, |trial| trial.calls(caches, self.rig.floor()));
                let Some(limit) = self.rig.limit(&finding.plan, caches, calls)? else { break 'rounds };
                let time = self.rig.calls(&finding.plan, caches, calls)?;
                ratio += (limit.as_nanos().max(1) as f64 / time.as_nanos().max(1) as f64).ln();
            }
            ratios.push(ratio / self.caches.len() as f64);
        }
        if let (true, Some(nanoseconds)) = (ratios.len() >= LEAST_LIMIT_ROUNDS, finding.nanoseconds) {
            finding.limit_nanoseconds = Some(nanoseconds * midmean(&mut ratios).exp());
        }
        finding.trials = self.trials;
        Ok(finding)
    }

    fn trial(&self, plan: &Plan) -> Option<&Trial> {
        self.trials.iter().find(|trial| trial.plan == *plan)
    }

    /// A race of plans that have been checked, without those that do the same as one before.
    pub(super) fn race(
        &mut self,
        plans: Vec<Plan>,
        held: usize,
        most: usize,
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
        let rounds = Rounds { most, precision: PRECISION, until };
        let outcome = race(self.rig, self.caches, &different, held.min(different.len()), rounds, self.rng)?;
        for runner in &outcome.runners {
            self.keep(runner);
        }
        Ok(outcome)
    }

    fn check(&mut self, plan: &Plan) -> Result<(), Error> {
        if self.rig.check(plan)? {
            return Ok(());
        }
        Err(Error::WrongBits { case: self.case.to_string(), plan: describe(plan) })
    }

    fn keep(&mut self, runner: &Runner) {
        let place = match self.trials.iter().position(|trial| trial.plan == runner.plan) {
            Some(place) => place,
            None => {
                self.trials.push(Trial::new(runner.plan));
                self.trials.len() - 1
            }
        };
        let trial = &mut self.trials[place];
        for (caches, samples) in self.caches.iter().zip(&runner.samples) {
            match caches {
                Caches::Warm => trial.warm.extend(samples),
                Caches::Cold => trial.cold.extend(samples),
            }
        }
    }
}
