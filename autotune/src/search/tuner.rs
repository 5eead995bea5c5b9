use std::ops::ControlFlow;
use std::time::Duration;

use fastrand::Rng;
use lion_kernels::{Backend, Plan};

use super::case::Search;
use super::tuning_log::Header;
use super::{CaseResult, Level, TuningLog, part, threshold};
use crate::Error;
use crate::candidate::{KERNELS_REVISION, Space, checksum};
use crate::case::{Case, Dtypes, Operation, SizeClass};
use crate::machine::Machine;
use crate::measure::{Bench, MachineBench};
use crate::profile::{Document, default_plan};

/// Measures a machine and makes its profile.
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use lion_autotune::{Level, Machine, Tuner};
///
/// let result = Tuner::new(Machine::detect()).level(Level::Quick).run(|progress| {
///     println!("{} of {}: {}", progress.done, progress.cases, progress.case);
///     ControlFlow::Continue(())
/// })?;
/// println!("{}", result.document.to_toml()?);
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
    log: TuningLog,
}

/// The progress of a tuning.
#[derive(Clone, Debug)]
pub struct Progress<'a> {
    /// The number of finished cases.
    pub done: usize,
    /// The number of all cases.
    pub cases: usize,
    /// The next case.
    pub case: Case,
    /// The result of the previous case.
    pub last: Option<&'a CaseResult>,
    /// The time since the start.
    pub elapsed: Duration,
    /// The time limit.
    pub time_limit: Duration,
}

/// The result of a tuning.
#[derive(Clone, Debug)]
pub struct TuningResult {
    /// The profile.
    pub document: Document,
    /// The result of each case, with all measurements.
    pub cases: Vec<CaseResult>,
    /// Whether the tuning was stopped. The profile then has only the finished cases.
    pub stopped: bool,
}

impl Tuner {
    /// Creates a tuner of all operations in the usual formats, at [`Level::Quick`].
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
            log: TuningLog::none(),
        }
    }

    /// Sets how much to measure.
    pub fn level(self, level: Level) -> Self {
        Tuner { level, ..self }
    }

    /// Sets the time limit of the measurements. Default: the level's. Checks against the reference, and a call that has
    /// started, may exceed it.
    pub fn time_limit(self, limit: Duration) -> Self {
        Tuner { time_limit: Some(limit), ..self }
    }

    /// Sets the seed of the random numbers for the order of measurements and the bootstrap.
    pub fn seed(self, seed: u64) -> Self {
        Tuner { seed, ..self }
    }

    /// Sets the operations to tune.
    pub fn operations(self, operations: impl IntoIterator<Item = Operation>) -> Self {
        Tuner { operations: operations.into_iter().collect(), ..self }
    }

    /// Sets the formats to tune. Other formats use the plans of those nearest in bytes.
    pub fn dtypes(self, dtypes: impl IntoIterator<Item = Dtypes>) -> Self {
        Tuner { dtypes: dtypes.into_iter().collect(), ..self }
    }

    /// Sets the maximum number of threads of a plan. Default: all usable cores.
    pub fn threads(self, threads: usize) -> Self {
        Tuner { threads: Some(threads), ..self }
    }

    /// Sets the backends to try. Default: all that the machine has.
    pub fn backends(self, backends: impl IntoIterator<Item = Backend>) -> Self {
        Tuner { backends: backends.into_iter().collect(), ..self }
    }

    /// Sets the log to write, and to continue from.
    pub fn log(self, log: TuningLog) -> Self {
        Tuner { log, ..self }
    }

    /// Returns the cases, in the order of measurement.
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

    /// Returns whether a size class is within the level's maximum and an eighth of the memory.
    fn is_measured(&self, class: SizeClass) -> bool {
        let memory = if self.machine.memory == 0 { u64::MAX } else { self.machine.memory };
        class.bytes() <= self.level.max_bytes() && class.bytes() as u64 <= memory / 8
    }

    /// Tunes this machine, on its own memory. Calls `progress` before each case, and stops if it breaks.
    ///
    /// # Errors
    /// Returns [`Error::WrongBits`] if a result differs from the reference, and [`Error::Kernels`] if a plan does not run.
    pub fn run(self, progress: impl FnMut(&Progress<'_>) -> ControlFlow<()>) -> Result<TuningResult, Error> {
        let mut bench = MachineBench::new(&self.machine);
        self.run_on(&mut bench, progress)
    }

    /// Tunes the machine of a bench.
    ///
    /// # Errors
    /// Returns the errors of [`run`](Self::run).
    pub fn run_on<B: Bench + ?Sized>(
        mut self,
        bench: &mut B,
        mut progress: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<TuningResult, Error> {
        let cases = self.cases();
        let baseline = default_plan(&self.machine, self.best_backend());
        let time_limit = self.time_limit.unwrap_or(self.level.time_limit());
        let mut results = match self.level {
            Level::Estimate => cases.iter().map(|case| CaseResult::of_baseline(*case, baseline)).collect(),
            _ => self.resumed(&cases),
        };
        let space = Space::of(self.backends.clone(), &self.machine, self.threads);
        let mut rng = Rng::with_seed(self.seed);
        let begin = bench.now();
        let end = begin.saturating_add(time_limit);
        let mut stopped = false;
        for (index, case) in cases.iter().enumerate().skip(results.len()) {
            let last = results.last();
            let elapsed = bench.now().saturating_sub(begin);
            let state = Progress { done: index, cases: cases.len(), case: *case, last, elapsed, time_limit };
            if progress(&state).is_break() {
                stopped = true;
                break;
            }
            // The share of the remaining time, less a reserve for the thresholds.
            let rest: u32 = cases.get(index..).unwrap_or_default().iter().map(weight).sum();
            let left = part(end.saturating_sub(bench.now()), 0.92);
            let time = left.saturating_mul(weight(case)) / rest.max(1);
            let rounds = self.level.rounds();
            let hint = last.filter(|it| same_kind(&it.case, case)).map(|it| it.plan);
            let search = Search::new(bench, &space, &mut rng, &self.machine, *case, rounds, baseline)?;
            let result = search.run(time, hint)?;
            self.log.add_case(&result);
            results.push(result);
        }
        if !stopped && self.level != Level::Estimate {
            self.place_thresholds(bench, &space, &mut rng, &mut results, end)?;
            self.log.add_end();
        }
        let document = Document::new(&self.machine, self.level.name(), &results);
        Ok(TuningResult { document, cases: results, stopped })
    }

    fn best_backend(&self) -> Backend {
        self.backends.iter().copied().max().unwrap_or(Backend::Scalar)
    }

    /// Returns the results of a stopped tuning with the same request, as far as their order matches.
    fn resumed(&mut self, cases: &[Case]) -> Vec<CaseResult> {
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
        let mut results = self.log.resume(&header);
        let same = results.iter().zip(cases).take_while(|(result, case)| result.case == **case).count();
        results.truncate(same);
        results
    }

    fn place_thresholds<B: Bench + ?Sized>(
        &self,
        bench: &mut B,
        space: &Space,
        rng: &mut Rng,
        results: &mut [CaseResult],
        end: Duration,
    ) -> Result<(), Error> {
        let changes = threshold::changes(results);
        for (index, (serial, parallel)) in changes.iter().enumerate() {
            let left = (changes.len() - index) as u32;
            let now = bench.now();
            let until = now.saturating_add(end.saturating_sub(now) / left);
            if let Ok([serial, parallel]) = results.get_disjoint_mut([*serial, *parallel]) {
                let rounds = self.level.rounds();
                threshold::place(bench, space, rng, &self.machine, rounds, serial, parallel, until)?;
            }
        }
        Ok(())
    }
}

/// Returns the share of the time that a case gets. The step gets most, because it takes most of the time of a training run.
/// Large calls get more, because their samples take longer. Small calls get a minimum, because other load may pause the
/// tuner for a while.
pub(super) fn weight(case: &Case) -> u32 {
    let large = 1 << case.size_class().index().saturating_sub(SizeClass::of(1 << 20).index());
    let size = 2 + large;
    if case.operation == Operation::Step { 4 * size } else { size }
}

/// Returns whether two cases have the same operation and formats.
fn same_kind(one: &Case, other: &Case) -> bool {
    (one.operation, one.dtypes) == (other.operation, other.dtypes)
}

/// Returns the plan of an optimizer without a profile.
pub(super) fn without_profile(machine: &Machine) -> Plan {
    default_plan(machine, Backend::best())
}
