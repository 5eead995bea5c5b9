//! The size from which more than one thread pays, between a class where it does not and the next where it does.

use std::time::Duration;

use fastrand::Rng;
use lion_kernels::Plan;

use super::Finding;
use super::case::Search;
use crate::Error;
use crate::candidate::Space;
use crate::case::Case;
use crate::machine::Machine;
use crate::measure::{Rig, midmean};

/// Sizes that are tried: the threshold is then known within a factor of the 16th root of 4.
const BISECTIONS: usize = 4;

fn is_serial(plan: &Plan) -> bool {
    plan.threads.is_some_and(|threads| threads.get() == 1)
}

/// Neighbours of one operation and formats of which the smaller stays on one thread and the larger never does. (Of the
/// default the kernels decide, call by call.)
pub(super) fn changes(findings: &[Finding]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for (place, serial) in findings.iter().enumerate() {
        let follows = |it: &Finding| {
            (it.case.operation, it.case.dtypes) == (serial.case.operation, serial.case.dtypes)
                && it.case.class().index() == serial.case.class().index() + 1
        };
        let parallel = findings.iter().position(follows);
        if let Some(next) = parallel
            && is_serial(&serial.plan)
            && findings
                .get(next)
                .is_some_and(|it| !is_serial(&it.plan) && it.plan.parallel_threshold.is_some())
        {
            pairs.push((place, next));
        }
    }
    pairs
}

/// Bisects between two findings, and puts the threshold into the plan of the class that it lies in.
#[allow(clippy::too_many_arguments)]
pub(super) fn place<R: Rig + ?Sized>(
    rig: &mut R,
    space: &Space,
    rng: &mut Rng,
    machine: &Machine,
    rounds: usize,
    serial: &mut Finding,
    parallel: &mut Finding,
    until: Duration,
) -> Result<(), Error> {
    let (mut stays, mut pays) = (serial.case.bytes, parallel.case.bytes);
    for left in (1..=BISECTIONS).rev() {
        let now = rig.now();
        if now >= until {
            break;
        }
        let bytes = ((stays as f64).sqrt() * (pays as f64).sqrt()) as usize;
        let case = Case { bytes, ..serial.case };
        let end = now.saturating_add(until.saturating_sub(now) / left as u32);
        let mut search = Search::new(rig, space, rng, machine, case, rounds, serial.plan)?;
        let outcome = search.race(vec![serial.plan, parallel.plan], 2, rounds, end)?;
        let [alone, together] = outcome.runners.as_slice() else { break };
        match midmean(&mut together.against(alone)) < 0.0 {
            true => pays = bytes,
            false => stays = bytes,
        }
    }
    parallel.plan = parallel.plan.parallel_threshold(pays);
    // The class below has calls above the threshold too: they are made as those of the class above.
    if pays < parallel.case.class().least() {
        let Plan { backend, prefetch, .. } = serial.plan;
        serial.plan = parallel.plan.backend(backend).prefetch(prefetch);
    }
    Ok(())
}
