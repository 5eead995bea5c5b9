//! The tuner: finds the fastest plan of each case. The plan must clearly beat the baseline, which is the plan that runs
//! without a profile (the default).
//!
//! The tuner searches a case in four races (see `race.rs`). If time is short it skips the first ones.
//!
//! 1. A race between backends drops the slow ones.
//! 2. A race over a coarse grid of threads and chunks leaves a few candidates.
//! 3. A climb compares the best candidate with those that differ from it by one step, until none of them is faster.
//! 4. A duel compares the winner with the baseline. The winner replaces the baseline only if it is faster by more than the
//!    noise and by at least [`MIN_GAIN`].
//!
//! Then a bisection between neighbouring size classes finds the size from which several threads pay.
//!
//! The tuner checks every candidate against the reference, bit by bit, before it times the candidate. It writes each case to
//! a [`TuningLog`], from which a stopped tuning can continue.

mod case;
mod case_result;
mod race;
mod threshold;
mod tuner;
mod tuning_log;
mod verify;

pub use case_result::{CaseResult, Measurement};
pub use tuner::{Progress, Tuner, TuningResult};
pub use tuning_log::{TuningLog, TuningRecord};
pub use verify::{MIN_ROUNDS, Regret, verify};

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::Error;
use crate::text::excerpt;

/// The share of time that a plan must save to replace the baseline.
pub const MIN_GAIN: f64 = 0.02;

/// How much the tuner measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Nothing: the profile has the built-in plans of the processor.
    Estimate,
    /// Less than a minute, enough for most machines.
    #[default]
    Quick,
    /// Five minutes, for a profile that many users share.
    Measure,
    /// Half an hour, with sizes up to 1 GiB.
    Patient,
}

impl Level {
    /// All levels, from the shortest.
    pub const ALL: &'static [Level] = &[Level::Estimate, Level::Quick, Level::Measure, Level::Patient];

    /// Returns the level's name.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Estimate => "estimate",
            Level::Quick => "quick",
            Level::Measure => "measure",
            Level::Patient => "patient",
        }
    }

    /// Returns the default time limit.
    pub const fn time_limit(self) -> Duration {
        Duration::from_secs(match self {
            Level::Estimate => 0,
            Level::Quick => 50,
            Level::Measure => 300,
            Level::Patient => 1800,
        })
    }

    /// Returns the maximum number of rounds of a race.
    const fn rounds(self) -> usize {
        match self {
            Level::Estimate => 0,
            Level::Quick => 120,
            Level::Measure => 300,
            Level::Patient => 800,
        }
    }

    /// Returns the bytes of the largest measured call.
    const fn max_bytes(self) -> usize {
        match self {
            Level::Patient => 1 << 30,
            _ => 1 << 28,
        }
    }
}

/// Returns a share of a time, without overflow.
fn part(time: Duration, share: f64) -> Duration {
    Duration::try_from_secs_f64(time.as_secs_f64() * share).unwrap_or(Duration::MAX)
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Level::ALL.iter().copied().find(|it| it.name() == name).ok_or_else(|| Error::Unknown {
            what: "level",
            name: excerpt(name),
            known: Level::ALL.iter().map(|it| it.name()).collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use lion_kernels::{Backend, Dtype, Plan};

    use super::*;
    use crate::case::{Case, Dtypes, Operation};
    use crate::machine::Machine;
    use crate::measure::{Bench, Caches};

    /// A simulated machine: every call takes a millisecond, and the clock starts at one hour.
    struct Constant {
        now: Duration,
        prepared: usize,
    }

    impl Constant {
        fn new() -> Self {
            Constant { now: Duration::from_secs(3600), prepared: 0 }
        }
    }

    impl Bench for Constant {
        fn prepare(&mut self, _: &Case) -> Result<(), Error> {
            self.prepared += 1;
            Ok(())
        }

        fn check(&mut self, _: &Plan) -> Result<bool, Error> {
            Ok(true)
        }

        fn calls(&mut self, _: &Plan, _: Caches, calls: u32) -> Result<Duration, Error> {
            let time = Duration::from_millis(1) * calls;
            self.now += time;
            Ok(time)
        }

        fn bandwidth_bound(
            &mut self,
            plan: &Plan,
            caches: Caches,
            calls: u32,
        ) -> Result<Option<Duration>, Error> {
            self.calls(plan, caches, calls).map(Some)
        }

        fn now(&self) -> Duration {
            self.now
        }

        fn min_sample_time(&self) -> Duration {
            Duration::from_millis(1)
        }
    }

    fn machine() -> Machine {
        Machine { cores: 2, ..Machine::detect() }
    }

    fn tuner() -> Tuner {
        Tuner::new(machine()).operations([Operation::Statistics]).dtypes([Dtypes::all(Dtype::F32)])
    }

    #[test]
    fn the_maximum_time_limit_works() {
        let mut bench = Constant::new();
        let tuner = tuner().time_limit(Duration::MAX);
        let cases = tuner.cases().len();
        let result = tuner.run_on(&mut bench, |_| ControlFlow::Continue(())).expect("tuned");
        assert!(!result.stopped && result.cases.iter().all(|it| it.nanoseconds.is_some()));
        let found = verify(&mut bench, &machine(), &result.document, 10, Duration::MAX, |_, _| {
            ControlFlow::Continue(())
        });
        assert_eq!((result.cases.len(), found.expect("verified").len()), (cases, cases));
        assert_eq!(part(Duration::MAX, 1.0), Duration::MAX);
    }

    #[test]
    fn a_tuning_does_not_continue_from_the_log_of_another_request() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tuning.jsonl");
        let begins_at = |tuner: Tuner, stop: usize| {
            let mut first = None;
            let log = TuningLog::open(&path).expect("a log");
            let result = tuner.log(log).run_on(&mut Constant::new(), |progress| {
                first.get_or_insert(progress.done);
                if progress.done < stop { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            assert!(result.expect("tuned").stopped);
            first.expect("a case")
        };
        let both = || tuner().backends([Backend::best(), Backend::Scalar]);
        let scalar = || tuner().backends([Backend::Scalar]);
        let operations = || scalar().operations([Operation::Statistics, Operation::Convert]);
        let dtypes = || scalar().dtypes([Dtype::F32, Dtype::F16].map(Dtypes::all));
        let requests: [&dyn Fn() -> Tuner; 4] = [&both, &scalar, &operations, &dtypes];
        for request in requests {
            assert_eq!([begins_at(request(), 2), begins_at(request(), 3)], [0, 2]);
        }
    }

    #[test]
    fn a_file_that_is_not_a_log_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tuning.jsonl");
        std::fs::write(&path, "schema = 1\n").expect("written");
        let error = TuningLog::read(&path).expect_err("not a log");
        assert_eq!(error.to_string(), "not a tuning log: the first line does not describe a tuning");
    }

    #[test]
    fn verification_stops_at_the_time_limit() {
        let result =
            tuner().level(Level::Estimate).run_on(&mut Constant::new(), |_| ControlFlow::Continue(()));
        let document = result.expect("an estimate").document;
        let verified = |rounds: usize, limit: Duration| {
            let (mut bench, mut told) = (Constant::new(), 0);
            let found = verify(&mut bench, &machine(), &document, rounds, limit, |_, _| {
                told += 1;
                ControlFlow::Continue(())
            });
            (bench.prepared, told, found.expect("verified").len())
        };
        assert_eq!(verified(MIN_ROUNDS, Duration::ZERO), (0, 0, 0));
        let (prepared, told, found) = verified(MIN_ROUNDS, Duration::from_millis(1));
        assert_eq!((prepared, told, found), (1, 1, 0));
        let all = document.entries.len();
        assert_eq!(verified(MIN_ROUNDS, Duration::from_secs(3600)), (all, all, all));
        assert_eq!(verified(MIN_ROUNDS - 1, Duration::from_secs(3600)), (all, all, 0));
    }
}
