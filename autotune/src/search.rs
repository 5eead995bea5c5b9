//! The tuner: for each case the fastest plan that is clearly faster than what runs without a profile.
//!
//! A case is searched in four races (`race.rs`), or in the last ones only where time is short. The first, between
//! backends, leaves those that come near the best. The second goes over a coarse grid of threads and chunks. The third
//! climbs: the best so far against what differs from it by one step, until nothing near is better. The last is a duel
//! with candidate 0, which the winner must win by more than the noise and by [`LEAST_GAIN`]; else candidate 0 stays.
//! Then the size from which more than one thread pays is found by bisection between neighbouring classes.
//!
//! Every candidate is checked against the reference, by bits, before it is timed. What is measured goes to a
//! [`Journal`] case by case, from which a tuning that was stopped goes on.

mod case;
mod finding;
mod journal;
mod race;
mod threshold;
mod tuner;
mod verify;

pub use finding::{Finding, Trial};
pub use journal::{Journal, Record};
pub use tuner::{Progress, Tuned, Tuner};
pub use verify::{LEAST_ROUNDS, Regret, verify};

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::Error;
use crate::text::excerpt;

/// The share of time that a plan must save to take the place of candidate 0.
pub const LEAST_GAIN: f64 = 0.02;

/// How much is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Nothing: the plans known for the processor.
    Estimate,
    /// Enough for most machines, in less than a minute.
    #[default]
    Quick,
    /// Five minutes, for a profile that many will use.
    Measure,
    /// Half an hour, and sizes up to 1 GiB.
    Patient,
}

impl Level {
    /// Every level, from the shortest.
    pub const ALL: &'static [Level] = &[Level::Estimate, Level::Quick, Level::Measure, Level::Patient];

    /// The level's name.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Estimate => "estimate",
            Level::Quick => "quick",
            Level::Measure => "measure",
            Level::Patient => "patient",
        }
    }

    /// The time that it takes unless another limit is set.
    pub const fn time_limit(self) -> Duration {
        Duration::from_secs(match self {
            Level::Estimate => 0,
            Level::Quick => 50,
            Level::Measure => 300,
            Level::Patient => 1800,
        })
    }

    /// Rounds of a race.
    const fn rounds(self) -> usize {
        match self {
            Level::Estimate => 0,
            Level::Quick => 120,
            Level::Measure => 300,
            Level::Patient => 800,
        }
    }

    /// Bytes of the largest call that is measured.
    const fn largest(self) -> usize {
        match self {
            Level::Patient => 1 << 30,
            _ => 1 << 28,
        }
    }
}

/// A share of a time, however long that is.
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
    use crate::measure::{Caches, Rig};

    /// A machine on which every call takes a millisecond, by a clock that has run for an hour.
    struct Even {
        now: Duration,
        prepared: usize,
    }

    impl Even {
        fn new() -> Self {
            Even { now: Duration::from_secs(3600), prepared: 0 }
        }
    }

    impl Rig for Even {
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

        fn limit(&mut self, plan: &Plan, caches: Caches, calls: u32) -> Result<Option<Duration>, Error> {
            self.calls(plan, caches, calls).map(Some)
        }

        fn now(&self) -> Duration {
            self.now
        }

        fn floor(&self) -> Duration {
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
    fn the_longest_time_limit_is_one() {
        let mut rig = Even::new();
        let tuner = tuner().time_limit(Duration::MAX);
        let cases = tuner.cases().len();
        let tuned = tuner.run_on(&mut rig, |_| ControlFlow::Continue(())).expect("tuned");
        assert!(!tuned.stopped && tuned.findings.iter().all(|it| it.nanoseconds.is_some()));
        let found =
            verify(
                &mut rig,
                &machine(),
                &tuned.document,
                10,
                Duration::MAX,
                |_, _| ControlFlow::Continue(()),
            );
        assert_eq!((tuned.findings.len(), found.expect("verified").len()), (cases, cases));
        assert_eq!(part(Duration::MAX, 1.0), Duration::MAX);
    }

    #[test]
    fn a_record_of_another_request_is_not_gone_on_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tuning.jsonl");
        let begins_at = |tuner: Tuner, stop: usize| {
            let mut first = None;
            let journal = Journal::open(&path).expect("a journal");
            let tuned = tuner.journal(journal).run_on(&mut Even::new(), |progress| {
                first.get_or_insert(progress.done);
                if progress.done < stop { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            assert!(tuned.expect("tuned").stopped);
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
    fn a_file_that_is_no_record_is_called_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tuning.jsonl");
        std::fs::write(&path, "schema = 1\n").expect("written");
        let error = Journal::read(&path).expect_err("no record");
        assert_eq!(error.to_string(), "is no record of a tuning: its first line is not a tuning's");
    }

    #[test]
    fn nothing_is_verified_after_the_time_limit() {
        let tuned = tuner().level(Level::Estimate).run_on(&mut Even::new(), |_| ControlFlow::Continue(()));
        let document = tuned.expect("an estimate").document;
        let verified = |rounds: usize, limit: Duration| {
            let (mut rig, mut told) = (Even::new(), 0);
            let found = verify(&mut rig, &machine(), &document, rounds, limit, |_, _| {
                told += 1;
                ControlFlow::Continue(())
            });
            (rig.prepared, told, found.expect("verified").len())
        };
        assert_eq!(verified(LEAST_ROUNDS, Duration::ZERO), (0, 0, 0));
        let (prepared, told, found) = verified(LEAST_ROUNDS, Duration::from_millis(1));
        assert_eq!((prepared, told, found), (1, 1, 0));
        let all = document.entries.len();
        assert_eq!(verified(LEAST_ROUNDS, Duration::from_secs(3600)), (all, all, all));
        assert_eq!(verified(LEAST_ROUNDS - 1, Duration::from_secs(3600)), (all, all, 0));
    }
}
