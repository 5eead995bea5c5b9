//! Verifies a profile: measures each of its plans against the baseline and all other candidates.

use std::ops::ControlFlow;
use std::time::Duration;

use fastrand::Rng;
use lion_kernels::Plan;

use super::case::Search;
use super::part;
use super::race::Runner;
use super::tuner::{weight, without_profile};
use crate::Error;
use crate::candidate::Space;
use crate::case::Case;
use crate::machine::Machine;
use crate::measure::{Bench, bootstrap, midmean};
use crate::profile::Document;

/// The minimum number of rounds for a comparison. With fewer there is no confidence interval.
pub const MIN_ROUNDS: usize = 5;

/// A new measurement of a plan. Ratios are ratios of times, each with its 95 % confidence interval.
#[derive(Clone, Debug)]
pub struct Regret {
    /// The case.
    pub case: Case,
    /// The profile's plan.
    pub plan: Plan,
    /// The fastest candidate in this measurement.
    pub best: Plan,
    /// Nanoseconds of a call with the profile's plan.
    pub nanoseconds: f64,
    /// The ratio of the plan's time to the best's, and its interval.
    pub to_best: (f64, [f64; 2]),
    /// The ratio of the plan's time to the baseline's, and its interval.
    pub to_baseline: (f64, [f64; 2]),
}

impl Regret {
    /// Returns whether the plan is at most 3 % slower than the best, and not slower than the baseline, up to the noise.
    pub fn holds(&self) -> bool {
        self.to_best.1[0] <= 1.03 && self.to_baseline.1[0] <= 1.0
    }
}

/// Times all candidates of each entry, then the entry's plan, the best candidate and the baseline alone.
///
/// Calls `progress` before each entry, and stops if it breaks. Leaves out entries that the time limit does not allow to
/// measure for [`MIN_ROUNDS`] rounds. Checks against the reference, and a call that has started, may exceed the time limit.
///
/// # Errors
/// Returns the errors of [`Tuner::run`](super::Tuner::run), and an error if a plan of the profile is invalid.
pub fn verify<B: Bench + ?Sized>(
    bench: &mut B,
    machine: &Machine,
    document: &Document,
    rounds: usize,
    time_limit: Duration,
    mut progress: impl FnMut(usize, &Case) -> ControlFlow<()>,
) -> Result<Vec<Regret>, Error> {
    let space = Space::new(machine, None);
    let mut rng = Rng::with_seed(0);
    let end = bench.now().saturating_add(time_limit);
    let plans = document.plans()?;
    let mut regrets = Vec::new();
    for (index, (case, plan)) in plans.iter().enumerate() {
        let now = bench.now();
        if now >= end || progress(index, case).is_break() {
            break;
        }
        let rest: u32 = plans.get(index..).unwrap_or_default().iter().map(|(case, _)| weight(case)).sum();
        let time = end.saturating_sub(now).saturating_mul(weight(case)) / rest.max(1);
        let baseline = without_profile(machine);
        let mut search = Search::new(bench, &space, &mut rng, machine, *case, rounds, baseline)?;
        let plan = space.effective(case, plan);
        let baseline = search.baseline;
        let all = [vec![plan, baseline], space.full(case)].concat();
        let found = search.race(all, 2, rounds, now.saturating_add(part(time, 0.6)))?;
        let leader = found.leader.and_then(|index| found.runners.get(index));
        // With too few rounds the best candidate is unknown.
        let Some(best) = leader.filter(|it| it.rounds() >= MIN_ROUNDS).map(|it| it.plan) else { continue };
        // Takes new samples, because the fastest of many candidates was partly lucky in the old ones.
        let last = search.race(vec![plan, best, baseline], 3, rounds, now.saturating_add(time))?;
        regrets.extend(regret(*case, plan, best, baseline, &last.runners, &mut rng));
    }
    Ok(regrets)
}

/// Computes the regret from a race; `None` if there were too few rounds.
fn regret(
    case: Case,
    plan: Plan,
    best: Plan,
    baseline: Plan,
    runners: &[Runner],
    rng: &mut Rng,
) -> Option<Regret> {
    let find = |plan: Plan| runners.iter().find(|runner| runner.plan == plan);
    let chosen = find(plan).filter(|runner| runner.rounds() >= MIN_ROUNDS)?;
    let mut ratio = |other: Plan| {
        let mut behind = chosen.against(find(other)?);
        let (low, high) = bootstrap(&behind, rng);
        Some((midmean(&mut behind).exp(), [low.exp(), high.exp()]))
    };
    let (to_best, to_baseline) = (ratio(best)?, ratio(baseline)?);
    let nanoseconds = midmean(&mut chosen.scores()).exp();
    Some(Regret { case, plan, best, nanoseconds, to_best, to_baseline })
}
