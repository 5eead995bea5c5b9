//! Finds the size from which several threads pay, between a size class with a serial plan and the next with a parallel plan.

use std::time::Duration;

use fastrand::Rng;
use lion_kernels::Plan;

use super::CaseResult;
use super::case::Search;
use crate::Error;
use crate::candidate::Space;
use crate::case::Case;
use crate::machine::Machine;
use crate::measure::{Bench, midmean};

/// The number of sizes to try. Afterwards the threshold is known within a factor of the 16th root of 4.
const BISECTIONS: usize = 4;

fn is_serial(plan: &Plan) -> bool {
    plan.threads.is_some_and(|threads| threads.get() == 1)
}

/// Returns pairs of neighbouring size classes, of the same operation and formats, where the smaller has a serial plan and the
/// larger a parallel one. Excludes plans without a threshold, for which the kernels decide at each call.
pub(super) fn changes(results: &[CaseResult]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for (index, serial) in results.iter().enumerate() {
        let follows = |it: &CaseResult| {
            (it.case.operation, it.case.dtypes) == (serial.case.operation, serial.case.dtypes)
                && it.case.size_class().index() == serial.case.size_class().index() + 1
        };
        let parallel = results.iter().position(follows);
        if let Some(next) = parallel
            && is_serial(&serial.plan)
            && results
                .get(next)
                .is_some_and(|it| !is_serial(&it.plan) && it.plan.parallel_threshold.is_some())
        {
            pairs.push((index, next));
        }
    }
    pairs
}

/// Bisects between two results, and puts the threshold into the plan of its size class.
#[allow(clippy::too_many_arguments)]
pub(super) fn place<B: Bench + ?Sized>(
    bench: &mut B,
    space: &Space,
    rng: &mut Rng,
    machine: &Machine,
    rounds: usize,
    serial: &mut CaseResult,
    parallel: &mut CaseResult,
    until: Duration,
) -> Result<(), Error> {
    let (mut stays, mut pays) = (serial.case.bytes, parallel.case.bytes);
    for left in (1..=BISECTIONS).rev() {
        let now = bench.now();
        if now >= until {
            break;
        }
        let bytes = ((stays as f64).sqrt() * (pays as f64).sqrt()) as usize;
        let case = Case { bytes, ..serial.case };
        let end = now.saturating_add(until.saturating_sub(now) / left as u32);
        let mut search = Search::new(bench, space, rng, machine, case, rounds, serial.plan)?;
        let outcome = search.race(vec![serial.plan, parallel.plan], 2, rounds, end)?;
        let [alone, together] = outcome.runners.as_slice() else { break };
        match midmean(&mut together.against(alone)) < 0.0 {
            true => pays = bytes,
            false => stays = bytes,
        }
    }
    parallel.plan = parallel.plan.parallel_threshold(pays);
    // If the threshold is in the smaller class, that class gets the parallel plan with this threshold.
    if pays < parallel.case.size_class().min_bytes() {
        let Plan { backend, prefetch, .. } = serial.plan;
        serial.plan = parallel.plan.backend(backend).prefetch(prefetch);
    }
    Ok(())
}
