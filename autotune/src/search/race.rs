//! Races: times candidates in rounds, until the remaining ones are equally fast.
//!
//! A round takes one sample of each remaining candidate, in a new random order. A disturbance that lasts longer than a round
//! affects all candidates alike, because the race compares only samples of the same round. A candidate leaves the race when
//! the leader has clearly beaten it.

use std::time::Duration;

use fastrand::Rng;
use lion_kernels::Plan;

use crate::Error;
use crate::measure::{Bench, Caches, median_interval, midmean};

/// The confidence, in standard deviations, with which the leader must beat a candidate. It is high because a race makes
/// many comparisons.
const SIGMAS: f64 = 3.0;

/// The round of the first comparison, and the number of rounds between later ones. In the first one a candidate leaves only
/// if it was slower by [`FAR`] in every round, because there are too few rounds for an interval.
const FIRST_LOOK: usize = 3;
const LATER_LOOKS: usize = 8;
const FAR: f64 = 0.25;

/// The end of a race.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounds {
    pub(super) max: usize,
    /// A candidate counts as equally fast if the logarithm of the ratio of its time to the leader's is below this.
    pub(super) precision: f64,
    /// The time at which the race ends, by the clock of the bench.
    pub(super) until: Duration,
}

/// A candidate and its samples.
#[derive(Clone, Debug)]
pub(super) struct Runner {
    pub(super) plan: Plan,
    /// Nanoseconds of a call, for each state of the caches and each round.
    pub(super) samples: Vec<Vec<f64>>,
    /// For each complete round, the mean logarithm of nanoseconds over the states of the caches.
    scores: Vec<f64>,
    calls: Vec<u32>,
    racing: bool,
}

impl Runner {
    fn new(plan: Plan, caches: usize) -> Self {
        Runner {
            plan,
            samples: vec![Vec::new(); caches],
            scores: Vec::new(),
            calls: vec![0; caches],
            racing: true,
        }
    }

    pub(super) fn rounds(&self) -> usize {
        self.scores.len()
    }

    pub(super) fn scores(&self) -> Vec<f64> {
        self.scores.clone()
    }

    /// Returns the logarithm of the ratio of its time to another's, for each round.
    pub(super) fn against(&self, other: &Runner) -> Vec<f64> {
        self.scores.iter().zip(&other.scores).map(|(score, other)| score - other).collect()
    }
}

/// The candidates at the end of a race.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) runners: Vec<Runner>,
    /// The index of the fastest remaining candidate; `None` if no round was completed.
    pub(super) leader: Option<usize>,
}

impl Outcome {
    /// Returns the remaining plans, the fastest first.
    pub(super) fn survivors(&self) -> Vec<Plan> {
        let mut left: Vec<_> =
            self.runners.iter().filter(|runner| runner.racing && runner.rounds() > 0).collect();
        left.sort_by(|a, b| midmean(&mut a.scores()).total_cmp(&midmean(&mut b.scores())));
        left.iter().map(|runner| runner.plan).collect()
    }
}

/// Runs a race. The first `kept` plans stay in to the end.
pub(super) fn race<B: Bench + ?Sized>(
    bench: &mut B,
    caches: &[Caches],
    plans: &[Plan],
    kept: usize,
    rounds: Rounds,
    rng: &mut Rng,
) -> Result<Outcome, Error> {
    let mut runners: Vec<Runner> = plans.iter().map(|plan| Runner::new(*plan, caches.len())).collect();
    for round in 1..=rounds.max {
        let mut order: Vec<usize> = (0..runners.len()).collect();
        rng.shuffle(&mut order);
        for index in order {
            let runner = &mut runners[index];
            if !runner.racing {
                continue;
            }
            if bench.now() >= rounds.until {
                return Ok(finished(runners));
            }
            sample(bench, caches, runner)?;
        }
        let looks = round == FIRST_LOOK || round % LATER_LOOKS == 0;
        if looks && drop_beaten(&mut runners, kept, round, rounds.precision) {
            break;
        }
    }
    Ok(finished(runners))
}

fn finished(runners: Vec<Runner>) -> Outcome {
    let leader = fastest(&runners);
    Outcome { runners, leader }
}

fn sample<B: Bench + ?Sized>(bench: &mut B, caches: &[Caches], runner: &mut Runner) -> Result<(), Error> {
    let mut logarithms = 0.0;
    let states = caches.iter().zip(&mut runner.calls).zip(&mut runner.samples);
    for ((&caches, calls), samples) in states {
        let time = match *calls {
            0 => {
                let (found, time) = calls_for_a_sample(bench, &runner.plan, caches)?;
                *calls = found;
                time
            }
            calls => bench.calls(&runner.plan, caches, calls)?,
        };
        let nanoseconds = time.as_nanos().max(1) as f64 / f64::from(*calls);
        samples.push(nanoseconds);
        logarithms += nanoseconds.ln();
    }
    runner.scores.push(logarithms / caches.len() as f64);
    Ok(())
}

/// Returns the number of calls that reaches the minimum time of a sample, and their time.
fn calls_for_a_sample<B: Bench + ?Sized>(
    bench: &mut B,
    plan: &Plan,
    caches: Caches,
) -> Result<(u32, Duration), Error> {
    let min_time = bench.min_sample_time();
    let mut calls = 1;
    loop {
        let time = bench.calls(plan, caches, calls)?;
        if time >= min_time || calls >= 1 << 24 {
            return Ok((calls, time));
        }
        let missing = min_time.as_nanos() / time.as_nanos().max(1) + 1;
        calls = calls.saturating_mul(missing.clamp(2, 64) as u32);
    }
}

fn fastest(runners: &[Runner]) -> Option<usize> {
    let racing = runners.iter().enumerate().filter(|(_, runner)| runner.racing && runner.rounds() > 0);
    let means = racing.map(|(index, runner)| (index, midmean(&mut runner.scores())));
    means.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
}

/// Drops candidates that the leader has beaten. Returns whether the race is decided: all others are equally fast.
fn drop_beaten(runners: &mut [Runner], kept: usize, rounds: usize, precision: f64) -> bool {
    let Some(leader) = fastest(runners) else { return true };
    let Some(first) = runners.get(leader).cloned() else { return true };
    let mut settled = rounds >= LATER_LOOKS;
    for (index, runner) in runners.iter_mut().enumerate() {
        if index == leader || !runner.racing {
            continue;
        }
        let mut behind = runner.against(&first);
        let (low, high) = median_interval(&mut behind, SIGMAS);
        let beaten = if rounds < LATER_LOOKS { low > FAR } else { low > 0.0 };
        if beaten && index >= kept {
            runner.racing = false;
        } else {
            // A kept candidate is decided if it is clearly slower, with a narrow interval, or equally fast.
            let known = beaten && high - low < 4.0 * precision;
            settled &= known || (low > -precision && high < precision);
        }
    }
    settled
}
