//! A race: candidates timed in rounds, each round in an order of its own, until what is left cannot be told apart.
//!
//! A round takes one sample of each candidate that is still in. So whatever disturbs the machine for longer than a
//! round disturbs all alike, and what is compared is always the difference within rounds. A candidate leaves when the
//! leader has clearly beaten it.

use std::time::Duration;

use fastrand::Rng;
use lion_kernels::Plan;

use crate::Error;
use crate::measure::{Caches, Rig, median_interval, midmean};

/// Standard deviations by which the leader's lead must exceed nothing: races look often, at many candidates.
const SIGMAS: f64 = 3.0;

/// Rounds after which a candidate leaves that was slower in each of them by [`FAR`], and after which rounds are
/// counted on for an interval.
const FIRST_LOOK: usize = 3;
const LATER_LOOKS: usize = 8;
const FAR: f64 = 0.25;

/// How long a race goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounds {
    pub(super) most: usize,
    /// What is nearer than this to the leader, as a logarithm of the ratio, is as good.
    pub(super) precision: f64,
    /// The rig's time at which it ends.
    pub(super) until: Duration,
}

/// One candidate's samples.
#[derive(Clone, Debug)]
pub(super) struct Runner {
    pub(super) plan: Plan,
    /// For each state of the caches and each round: nanoseconds of a call.
    pub(super) samples: Vec<Vec<f64>>,
    /// For each complete round the logarithm of nanoseconds, over all states of the caches.
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

    /// By round, the logarithm of the ratio of its time to another's.
    pub(super) fn against(&self, other: &Runner) -> Vec<f64> {
        self.scores.iter().zip(&other.scores).map(|(score, other)| score - other).collect()
    }
}

/// A race's candidates when it is over.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) runners: Vec<Runner>,
    /// The place of the fastest of those that were in to the end; `None` where no round was completed.
    pub(super) leader: Option<usize>,
}

impl Outcome {
    /// The plans that the leader has not beaten, it first.
    pub(super) fn survivors(&self) -> Vec<Plan> {
        let mut left: Vec<_> =
            self.runners.iter().filter(|runner| runner.racing && runner.rounds() > 0).collect();
        left.sort_by(|a, b| midmean(&mut a.scores()).total_cmp(&midmean(&mut b.scores())));
        left.iter().map(|runner| runner.plan).collect()
    }
}

/// Runs a race. The first `held` of the plans stay in to the end.
pub(super) fn race<R: Rig + ?Sized>(
    rig: &mut R,
    caches: &[Caches],
    plans: &[Plan],
    held: usize,
    rounds: Rounds,
    rng: &mut Rng,
) -> Result<Outcome, Error> {
    let mut runners: Vec<Runner> = plans.iter().map(|plan| Runner::new(*plan, caches.len())).collect();
    for round in 1..=rounds.most {
        let mut order: Vec<usize> = (0..runners.len()).collect();
        rng.shuffle(&mut order);
        for place in order {
            let runner = &mut runners[place];
            if !runner.racing {
                continue;
            }
            if rig.now() >= rounds.until {
                return Ok(finished(runners));
            }
            sample(rig, caches, runner)?;
        }
        let looks = round == FIRST_LOOK || round % LATER_LOOKS == 0;
        if looks && drop_beaten(&mut runners, held, round, rounds.precision) {
            break;
        }
    }
    Ok(finished(runners))
}

fn finished(runners: Vec<Runner>) -> Outcome {
    let leader = fastest(&runners);
    Outcome { runners, leader }
}

fn sample<R: Rig + ?Sized>(rig: &mut R, caches: &[Caches], runner: &mut Runner) -> Result<(), Error> {
    let mut logarithms = 0.0;
    let states = caches.iter().zip(&mut runner.calls).zip(&mut runner.samples);
    for ((&caches, calls), samples) in states {
        let time = match *calls {
            0 => {
                let (found, time) = calls_for_a_sample(rig, &runner.plan, caches)?;
                *calls = found;
                time
            }
            calls => rig.calls(&runner.plan, caches, calls)?,
        };
        let nanoseconds = time.as_nanos().max(1) as f64 / f64::from(*calls);
        samples.push(nanoseconds);
        logarithms += nanoseconds.ln();
    }
    runner.scores.push(logarithms / caches.len() as f64);
    Ok(())
}

/// As many calls as it takes to reach the floor, and the time of so many.
fn calls_for_a_sample<R: Rig + ?Sized>(
    rig: &mut R,
    plan: &Plan,
    caches: Caches,
) -> Result<(u32, Duration), Error> {
    let floor = rig.floor();
    let mut calls = 1;
    loop {
        let time = rig.calls(plan, caches, calls)?;
        if time >= floor || calls >= 1 << 24 {
            return Ok((calls, time));
        }
        let missing = floor.as_nanos() / time.as_nanos().max(1) + 1;
        calls = calls.saturating_mul(missing.clamp(2, 64) as u32);
    }
}

fn fastest(runners: &[Runner]) -> Option<usize> {
    let racing = runners.iter().enumerate().filter(|(_, runner)| runner.racing && runner.rounds() > 0);
    let means = racing.map(|(place, runner)| (place, midmean(&mut runner.scores())));
    means.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(place, _)| place)
}

/// Takes out what the leader has beaten. Whether what is left is all as good as the leader.
fn drop_beaten(runners: &mut [Runner], held: usize, rounds: usize, precision: f64) -> bool {
    let Some(leader) = fastest(runners) else { return true };
    let Some(first) = runners.get(leader).cloned() else { return true };
    let mut settled = rounds >= LATER_LOOKS;
    for (place, runner) in runners.iter_mut().enumerate() {
        if place == leader || !runner.racing {
            continue;
        }
        let mut behind = runner.against(&first);
        let (low, high) = median_interval(&mut behind, SIGMAS);
        let beaten = if rounds < LATER_LOOKS { low > FAR } else { low > 0.0 };
        if beaten && place >= held {
            runner.racing = false;
        } else {
            // One that is held is settled when it is clear on which side it is, or that it does not matter.
            let known = beaten && high - low < 4.0 * precision;
            settled &= known || (low > -precision && high < precision);
        }
    }
    settled
}
