//! The tuner on simulated machines, for which the best plan is known.

use std::ops::ControlFlow;
use std::time::Duration;

use lion_autotune::candidate::Space;
use lion_autotune::measure::Bench as _;
use lion_autotune::{Case, Dtypes, Error, Level, Machine, Operation, Tuner, TuningLog, TuningResult};
use lion_kernels::{Backend, Dtype, Plan};
use lion_tests::simulated::{BACKENDS, Simulated, machine};

fn tuner(machine: &Machine, seed: u64) -> Tuner {
    Tuner::new(machine.clone())
        .level(Level::Quick)
        .backends(BACKENDS)
        .operations([Operation::Step])
        .dtypes([Dtypes::all(Dtype::F32)])
        .seed(seed)
}

fn on(_: &lion_autotune::Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Over the best of all plans, the time of the one that was found: the worst of all cases.
fn regret(bench: &Simulated, tuned: &TuningResult) -> (f64, Option<Case>) {
    let space = Space::of(BACKENDS.to_vec(), bench.machine(), None);
    let of_case = |result: &lion_autotune::CaseResult| {
        let case = result.case;
        let best =
            space.full(&case).iter().map(|plan| bench.truth(&case, plan)).fold(f64::INFINITY, f64::min);
        (bench.truth(&case, &result.plan) / best, Some(case))
    };
    tuned.cases.iter().map(of_case).fold((1.0, None), |a, b| if b.0 > a.0 { b } else { a })
}

/// At least 95 of 100 seeds find plans within 3 % of the best, for every size and within the time limit.
fn finds_the_best(machine: &Machine) {
    let mut missed = Vec::new();
    for seed in 0..100 {
        let mut bench = Simulated::new(machine.clone(), seed);
        let tuned = tuner(machine, seed).run_on(&mut bench, on).expect("tuned");
        assert!(!tuned.stopped);
        let limit = Level::Quick.time_limit();
        assert!(bench.now() < limit + limit / 10, "{:?}", bench.now());
        let (worst, case) = regret(&bench, &tuned);
        if worst > 1.03 {
            missed.push((seed, worst, case.map(|case| case.to_string())));
        }
    }
    assert!(missed.len() <= 5, "{} of 100: {missed:?}", missed.len());
}

#[test]
fn finds_the_best_of_two_cores() {
    finds_the_best(&machine(2, 1));
}

#[test]
fn finds_the_best_of_64_cores_on_8_nodes() {
    finds_the_best(&machine(64, 8));
}

#[test]
fn the_same_seed_on_the_same_machine_is_the_same_profile() {
    let machine = machine(8, 1);
    let once = || {
        let mut bench = Simulated::new(machine.clone(), 7);
        tuner(&machine, 7).run_on(&mut bench, on).expect("tuned")
    };
    let (one, other) = (once(), once());
    assert_eq!(one.document, other.document);
    assert_eq!(one.cases, other.cases);
}

#[test]
fn a_candidate_with_wrong_bits_is_never_timed() {
    let machine = machine(2, 1);
    for wrong in BACKENDS {
        let mut bench = Simulated::new(machine.clone(), 1);
        bench.wrong = Some(wrong);
        let error = tuner(&machine, 1).run_on(&mut bench, on).expect_err("wrong bits");
        assert!(matches!(error, Error::WrongBits { .. }), "{error}");
        assert!(error.to_string().contains(wrong.name()), "{error}");
    }
}

/// Where nothing is to be gained the default stays, whatever the noise says.
#[test]
fn what_is_no_better_does_not_replace_the_default() {
    let machine = machine(1, 1);
    let (mut replaced, mut cases) = (0, 0);
    for seed in 0..20 {
        let mut bench = Simulated::new(machine.clone(), seed);
        let tuned = tuner(&machine, seed).run_on(&mut bench, on).expect("tuned");
        for result in &tuned.cases {
            let gain = bench.truth(&result.case, &result.baseline) / bench.truth(&result.case, &result.plan);
            assert!(gain > 0.99, "{}: a plan that is slower", result.case);
            replaced += usize::from(result.plan != result.baseline && gain < 1.005);
            cases += 1;
        }
    }
    // The interval holds 95 of 100.
    assert!(replaced * 20 <= cases, "{replaced} of {cases} defaults replaced that are as good");
}

#[test]
fn a_short_time_is_kept_and_gives_safe_plans() {
    let machine = machine(64, 8);
    for limit in [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(500)] {
        let mut bench = Simulated::new(machine.clone(), 3);
        let tuned = tuner(&machine, 3).time_limit(limit).run_on(&mut bench, on).expect("tuned");
        // One sample of each state of the caches may exceed it.
        assert!(bench.now() < limit + Duration::from_secs(3), "{limit:?}: {:?}", bench.now());
        for result in tuned.cases {
            let against =
                bench.truth(&result.case, &result.plan) / bench.truth(&result.case, &result.baseline);
            assert!(against < 1.05, "{}: {against} of the default", result.case);
        }
    }
}

#[test]
fn a_clock_that_jumps_gives_safe_plans() {
    let machine = machine(2, 1);
    let (mut whole, mut cut) = (0, 0);
    for (seed, jumps) in (0..30).zip([1e-4, 1e-3, 0.3].into_iter().cycle()) {
        let mut bench = Simulated::new(machine.clone(), seed);
        bench.jumps = jumps;
        // A profile with another processor's backends cannot be read back.
        let tuner = tuner(&machine, seed).backends(Backend::available());
        let tuned = tuner.run_on(&mut bench, on).expect("tuned");
        for result in &tuned.cases {
            let against =
                bench.truth(&result.case, &result.plan) / bench.truth(&result.case, &result.baseline);
            assert!(against < 1.05, "{}: {against} of the default", result.case);
            let numbers = result.nanoseconds.into_iter().chain(result.interval.into_iter().flatten());
            assert!(numbers.chain(result.baseline_nanoseconds).all(f64::is_finite), "{result:?}");
        }
        let written = tuned.document.to_toml().expect("text");
        assert_eq!(lion_autotune::Document::parse(&written).expect("a profile"), tuned.document);
        // An hour ahead is past the end.
        *if bench.now() < Duration::from_secs(3600) { &mut whole } else { &mut cut } += 1;
    }
    assert!(whole > 0 && cut > 0, "{whole} without a jump ahead, {cut} with one");
}

#[test]
fn it_goes_on_where_it_was_stopped() {
    let machine = machine(2, 1);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tuning.jsonl");
    let tune = |seed: u64, stop: usize| {
        let mut bench = Simulated::new(machine.clone(), 5);
        // What was found before must be legal here to be gone on with.
        let tuner = tuner(&machine, seed).backends([Backend::Scalar]);
        let log = TuningLog::open(&path).expect("a log");
        let tuned = tuner.log(log).run_on(&mut bench, |progress| match progress.done >= stop {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        tuned.expect("tuned")
    };
    let first = tune(1, 3);
    assert!(first.stopped && first.cases.len() == 3);
    let second = tune(1, 100);
    assert!(!second.stopped);
    assert_eq!(
        second.cases.iter().take(3).map(|it| &it.measurements).collect::<Vec<_>>(),
        first.cases.iter().map(|it| &it.measurements).collect::<Vec<_>>()
    );
    assert_eq!(TuningLog::read(&path).expect("a record").cases.len(), second.cases.len());
    // Another seed is another tuning.
    assert_eq!(tune(2, 1).cases.len(), 1);
}

#[test]
fn levels_and_cases() {
    let machine = machine(2, 1);
    let estimate = Tuner::new(machine.clone()).level(Level::Estimate);
    let cases = estimate.cases();
    // A format that an operation does not touch makes no case of its own.
    let of = |operation| cases.iter().filter(|case| case.operation == operation).count();
    assert_eq!(
        [of(Operation::Step), of(Operation::Statistics), of(Operation::Convert)],
        [4 * 8, 3 * 8, 4 * 8]
    );
    let mut bench = Simulated::new(machine, 1);
    let tuned = estimate.run_on(&mut bench, on).expect("an estimate");
    assert!(bench.now().is_zero() && tuned.cases.len() == cases.len());
    for &level in Level::ALL {
        assert_eq!(level.name().parse::<Level>().expect("a level"), level);
    }
}

/// Between the classes the threshold lies where one thread and more are equally fast.
#[test]
fn the_threshold_is_where_threads_begin_to_pay() {
    let machine = machine(2, 1);
    let mut bench = Simulated::new(machine.clone(), 11);
    (bench.noise, bench.spikes, bench.drift) = (0.01, 0.0, 0.0);
    let tuned = tuner(&machine, 11).run_on(&mut bench, on).expect("tuned");
    let placed = |plan: &Plan| plan.parallel_threshold.filter(|_| plan.threads.is_none_or(|it| it.get() > 1));
    let parallel = tuned.cases.iter().find_map(|it| Some((it.plan, placed(&it.plan)?)));
    let (plan, threshold) = parallel.expect("a plan on two threads");
    let at = |bytes: usize, plan: Plan| {
        let case = Case { bytes, operation: Operation::Step, dtypes: Dtypes::all(Dtype::F32) };
        bench.truth(&case, &plan)
    };
    assert!(threshold > 0, "{plan:?}");
    let ratio = at(threshold, plan.parallel_threshold(0)) / at(threshold, plan.threads(1));
    assert!((0.8..1.1).contains(&ratio), "{ratio} at {threshold}");
}
