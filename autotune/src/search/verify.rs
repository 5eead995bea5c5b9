//! Whether a profile holds what it promises: each of its plans against the default and against all other candidates.

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
use crate::measure::{Rig, bootstrap, midmean};
use crate::profile::Document;

/// Rounds below which [`verify`] says nothing of a plan: there is no interval.
pub const LEAST_ROUNDS: usize = 5;

/// A plan of a profile, measured anew. Ratios are of times, each with an interval of 95 % confidence.
#[derive(Clone, Debug)]
pub struct Regret {
    /// The work.
    pub case: Case,
    /// The profile's plan.
    pub plan: Plan,
    /// The fastest of all candidates in this measurement.
    pub best: Plan,
    /// Nanoseconds of a call with the profile's plan.
    pub nanoseconds: f64,
    /// The plan's time over the best's, and its interval.
    pub to_best: (f64, [f64; 2]),
    /// The plan's time over the default's, and its interval.
    pub to_default: (f64, [f64; 2]),
}

impl Regret {
    /// Whether the plan is at most 3 % slower than the best, and not slower than the default, each up to the noise.
    pub fn holds(&self) -> bool {
        self.to_best.1[0] <= 1.03 && self.to_default.1[0] <= 1.0
    }
}

/// Times every candidate of every entry's case in turn, then the profile's plan, the best and the default alone.
/// `progress` is told before each entry, and stops by breaking. What is not measured in time, for at least
/// [`LEAST_ROUNDS`], is left out. Checks against the reference and a call that has begun may exceed the time limit.
///
/// # Errors
/// As [`Tuner::run`](super::Tuner::run), and where an entry holds no plan.
pub fn verify<R: Rig + ?Sized>(
    rig: &mut R,
    machine: &Machine,
    document: &Document,
    rounds: usize,
    time_limit: Duration,
    mut progress: impl FnMut(usize, &Case) -> ControlFlow<()>,
) -> Result<Vec<Regret>, Error> {
    let space = Space::new(machine, None);
    let mut rng = Rng::with_seed(0);
    let end = rig.now().saturating_add(time_limit);
    let plans = document.plans()?;
    let mut regrets = Vec::new();
    for (place, (case, plan)) in plans.iter().enumerate() {
        let now = rig.now();
        if now >= end || progress(place, case).is_break() {
            break;
        }
        let rest: u32 = plans.get(place..).unwrap_or_default().iter().map(|(case, _)| weight(case)).sum();
        let time = end.saturating_sub(now).saturating_mul(weight(case)) / rest.max(1);
        let default = without_profile(machine);
        let mut search = Search::new(rig, &space, &mut rng, machine, *case, rounds, default)?;
        let plan = space.effective(case, plan);
        let default = search.default;
        let all = [vec![plan, default], space.full(case)].concat();
        let found = search.race(all, 2, rounds, now.saturating_add(part(time, 0.6)))?;
        let leader = found.leader.and_then(|place| found.runners.get(place));
        // Without enough of all candidates nothing can be said of the best.
        let Some(best) = leader.filter(|it| it.rounds() >= LEAST_ROUNDS).map(|it| it.plan) else { continue };
        // New samples: the fastest of many is faster by luck in those that chose it.
        let last = search.race(vec![plan, best, default], 3, rounds, now.saturating_add(time))?;
        regrets.extend(compared(*case, plan, best, default, &last.runners, &mut rng));
    }
    Ok(regrets)
}

fn compared(
    case: Case,
    plan: Plan,
    best: Plan,
    default: Plan,
    runners: &[Runner],
    rng: &mut Rng,
) -> Option<Regret> {
    let of = |plan: Plan| runners.iter().find(|runner| runner.plan == plan);
    let chosen = of(plan).filter(|runner| runner.rounds() >= LEAST_ROUNDS)?;
    let mut ratio = |other: Plan| {
        let mut behind = chosen.against(of(other)?);
        let (low, high) = bootstrap(&behind, rng);
        Some((midmean(&mut behind).exp(), [low.exp(), high.exp()]))
    };
    let (to_best, to_default) = (ratio(best)?, ratio(default)?);
    let nanoseconds = midmean(&mut chosen.scores()).exp();
    Some(Regret { case, plan, best, nanoseconds, to_best, to_default })
}
