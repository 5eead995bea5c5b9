use std::ops::ControlFlow;
use std::time::Duration;

use fastrand::Rng;
use lion_kernels::{Backend, Plan};

use super::case::Search;
use super::journal::Header;
use super::{Finding, Journal, Level, part, threshold};
use crate::Error;
use crate::candidate::{KERNELS_REVISION, Space, checksum};
use crate::case::{Case, Dtypes, Operation, SizeClass};
use crate::machine::Machine;
use crate::measure::{Rig, Scratch};
use crate::profile::{Document, default_plan};

/// Measures a machine, and makes a profile of what it finds.
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use lion_autotune::{Level, Machine, Tuner};
///
/// let tuned = Tuner::new(Machine::detect()).level(Level::Quick).run(|progress| {
///     println!("{} of {}: {}", progress.done, progress.cases, progress.case);
///     ControlFlow::Continue(())
/// })?;
/// println!("{}", tuned.document.to_toml()?);
/// # Ok::<(), lion_autotune::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Tuner {
    machine: Machine,
    level: Level,
    time_limit: Option<Duration>,
    seed: u64,
    operations: Vec<Operation>,
    dtypes: Vec<Dtypes>,
    threads: Option<usize>,
    backends: Vec<Backend>,
    journal: Journal,
}

/// How far a tuning is.
#[derive(Clone, Debug)]
pub struct Progress<'a> {
    /// Cases that are done.
    pub done: usize,
    /// Cases in all.
    pub cases: usize,
    /// The one that comes now.
    pub case: Case,
    /// The one before.
    pub last: Option<&'a Finding>,
    /// Time since the beginning.
    pub elapsed: Duration,
    /// Time in all.
    pub time_limit: Duration,
}

/// What a tuning comes to.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The profile.
    pub document: Document,
    /// All that was measured for it.
    pub findings: Vec<Finding>,
    /// Whether it was stopped before all cases were done. The profile is then of those that were.
    pub stopped: bool,
}

impl Tuner {
    /// A tuner of all operations in the usual formats, at [`Level::Quick`].
    pub fn new(machine: Machine) -> Self {
        Tuner {
            machine,
            level: Level::default(),
            time_limit: None,
            seed: 0,
            operations: Operation::ALL.to_vec(),
            dtypes: Dtypes::USUAL.to_vec(),
            threads: None,
            backends: Backend::available().collect(),
            journal: Journal::none(),
        }
    }

    /// How much is measured.
    pub fn level(self, level: Level) -> Self {
        Tuner { level, ..self }
    }

    /// The most time that measuring takes; unless set it is the level's. Checks against the reference and a call that
    /// has begun may exceed it.
    pub fn time_limit(self, limit: Duration) -> Self {
        Tuner { time_limit: Some(limit), ..self }
    }

    /// What the order of measurement and the bootstrap are drawn from.
    pub fn seed(self, seed: u64) -> Self {
        Tuner { seed, ..self }
    }

    /// What is tuned.
    pub fn operations(self, operations: impl IntoIterator<Item = Operation>) -> Self {
        Tuner { operations: operations.into_iter().collect(), ..self }
    }

    /// In which formats. Others use the plans of those that are nearest in size.
    pub fn dtypes(self, dtypes: impl IntoIterator<Item = Dtypes>) -> Self {
        Tuner { dtypes: dtypes.into_iter().collect(), ..self }
    }

    /// The most threads of a plan; unless set all that the machine has for this process.
    pub fn threads(self, threads: usize) -> Self {
        Tuner { threads: Some(threads), ..self }
    }

    /// The backends that are tried; unless set all that the machine has.
    pub fn backends(self, backends: impl IntoIterator<Item = Backend>) -> Self {
        Tuner { backends: backends.into_iter().collect(), ..self }
    }

    /// Keeps a record of the tuning, and goes on from it.
    pub fn journal(self, journal: Journal) -> Self {
        Tuner { journal, ..self }
    }

    /// The cases, in the order in which they are measured.
    pub fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for &operation in &self.operations {
            for &dtypes in &self.dtypes {
                for class in SizeClass::all().filter(|class| self.is_measured(*class)) {
                    let case = Case::new(operation, dtypes, class);
                    if !cases.contains(&case) {
                        cases.push(case);
                    }
                }
            }
        }
        cases
    }

    /// Not beyond the level's, nor an eighth of the memory.
    fn is_measured(&self, class: SizeClass) -> bool {
        let memory = if self.machine.memory == 0 { u64::MAX } else { self.machine.memory };
        class.bytes() <= self.level.largest() && class.bytes() as u64 <= memory / 8
    }

    /// Tunes this machine, on memory of its own. `progress` is told before each case, and stops the tuning by
    /// breaking.
    ///
    /// # Errors
    /// [`Error::WrongBits`] and [`Error::Kernels`].
    pub fn run(self, progress: impl FnMut(&Progress<'_>) -> ControlFlow<()>) -> Result<Tuned, Error> {
        let mut scratch = Scratch::new(&self.machine);
        self.run_on(&mut scratch, progress)
    }

    /// Tunes what a rig runs on.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_on<R: Rig + ?Sized>(
        mut self,
        rig: &mut R,
        mut progress: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Tuned, Error> {
        let cases = self.cases();
        let default = default_plan(&self.machine, self.best_backend());
        let time_limit = self.time_limit.unwrap_or(self.level.time_limit());
        let mut findings = match self.level {
            Level::Estimate => cases.iter().map(|case| Finding::of_default(*case, default)).collect(),
            _ => self.resumed(&cases),
        };
        let space = Space::of(self.backends.clone(), &self.machine, self.threads);
        let mut rng = Rng::with_seed(self.seed);
        let begin = rig.now();
        let end = begin.saturating_add(time_limit);
        let mut stopped = false;
        for (place, case) in cases.iter().enumerate().skip(findings.len()) {
            let last = findings.last();
            let elapsed = rig.now().saturating_sub(begin);
            let told = Progress { done: place, cases: cases.len(), case: *case, last, elapsed, time_limit };
            if progress(&told).is_break() {
                stopped = true;
                break;
            }
            // What is left of the time, kept back a little for the thresholds.
            let rest: u32 = cases.get(place..).unwrap_or_default().iter().map(weight).sum();
            let left = part(end.saturating_sub(rig.now()), 0.92);
            let time = left.saturating_mul(weight(case)) / rest.max(1);
            let rounds = self.level.rounds();
            let hint = last.filter(|it| of_one_kind(&it.case, case)).map(|it| it.plan);
            let search = Search::new(rig, &space, &mut rng, &self.machine, *case, rounds, default)?;
            let finding = search.run(time, hint)?;
            self.journal.found(&finding);
            findings.push(finding);
        }
        if !stopped && self.level != Level::Estimate {
            self.place_thresholds(rig, &space, &mut rng, &mut findings, end)?;
            self.journal.done();
        }
        let document = Document::new(&self.machine, self.level.name(), &findings);
        Ok(Tuned { document, findings, stopped })
    }

    fn best_backend(&self) -> Backend {
        self.backends.iter().copied().max().unwrap_or(Backend::Scalar)
    }

    /// What a record of the same tuning holds, as far as it is in order.
    fn resumed(&mut self, cases: &[Case]) -> Vec<Finding> {
        let header = Header {
            machine: self.machine.clone(),
            candidates: checksum(&self.machine),
            revision: KERNELS_REVISION,
            level: self.level.name().into(),
            seed: self.seed,
            threads: self.threads,
            backends: self.backends.iter().map(|backend| backend.name().into()).collect(),
            operations: self.operations.clone(),
            dtypes: self.dtypes.clone(),
        };
        let mut findings = self.journal.resume(&header);
        let same = findings.iter().zip(cases).take_while(|(finding, case)| finding.case == **case).count();
        findings.truncate(same);
        findings
    }

    fn place_thresholds<R: Rig + ?Sized>(
        &self,
        rig: &mut R,
        space: &Space,
        rng: &mut Rng,
        findings: &mut [Finding],
        end: Duration,
    ) -> Result<(), Error> {
        let changes = threshold::changes(findings);
        for (turn, (serial, parallel)) in changes.iter().enumerate() {
            let left = (changes.len() - turn) as u32;
            let now = rig.now();
            let until = now.saturating_add(end.saturating_sub(now) / left);
            if let Ok([serial, parallel]) = findings.get_disjoint_mut([*serial, *parallel]) {
                let rounds = self.level.rounds();
                threshold::place(rig, space, rng, &self.machine, rounds, serial, parallel, until)?;
            }
        }
        Ok(())
    }
}

/// The step takes most of the time of a training run, and so of the tuning; and a sample of a large call takes long,
/// while in little time for a small one a busy machine may not let us run at all.
pub(super) fn weight(case: &Case) -> u32 {
    let large = 1 << case.class().index().saturating_sub(SizeClass::of(1 << 20).index());
    let size = 2 + large;
    if case.operation == Operation::Step { 4 * size } else { size }
}

/// Calls of one operation on the same formats, of whichever size.
fn of_one_kind(one: &Case, other: &Case) -> bool {
    (one.operation, one.dtypes) == (other.operation, other.dtypes)
}

/// The plan that an optimizer has on a machine without a profile.
pub(super) fn without_profile(machine: &Machine) -> Plan {
    default_plan(machine, Backend::best())
}
