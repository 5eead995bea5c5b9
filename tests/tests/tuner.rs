//! The tuner on simulated machines, for which the best plan is known.

use std::ops::ControlFlow;
use std::time::Duration;

use lion_autotune::candidate::Space;
use lion_autotune::measure::Rig as _;
use lion_autotune::{Case, Dtypes, Error, Journal, Level, Machine, Operation, Tuned, Tuner};
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
fn regret(rig: &Simulated, tuned: &Tuned) -> (f64, Option<Case>) {
    let space = Space::of(BACKENDS.to_vec(), rig.machine(), None);
    let of_case = |finding: &lion_autotune::Finding| {
        let case = finding.case;
        let best = space.full(&case).iter().map(|plan| rig.truth(&case, plan)).fold(f64::INFINITY, f64::min);
        (rig.truth(&case, &finding.plan) / best, Some(case))
    };
    tuned.findings.iter().map(of_case).fold((1.0, None), |a, b| if b.0 > a.0 { b } else { a })
}

/// At least 95 of 100 seeds find plans within 3 % of the best, for every size and within the time limit.
fn finds_the_best(machine: &Machine) {
    let mut missed = Vec::new();
    for seed in 0..100 {
        let mut rig = Simulated::new(machine.clone(), seed);
        let tuned = tuner(machine, seed).run_on(&mut rig, on).expect("tuned");
        assert!(!tuned.stopped);
        let limit = Level::Quick.time_limit();
        assert!(rig.now() < limit + limit / 10, "{:?}", rig.now());
        let (worst, case) = regret(&rig, &tuned);
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
        let mut rig = Simulated::new(machine.clone(), 7);
        tuner(&machine, 7).run_on(&mut rig, on).expect("tuned")
    };
    let (one, other) = (once(), once());
    assert_eq!(one.document, other.document);
    assert_eq!(one.findings, other.findings);
}

#[test]
fn a_candidate_with_wrong_bits_is_never_timed() {
    let machine = machine(2, 1);
    for wrong in BACKENDS {
        let mut rig = Simulated::new(machine.clone(), 1);
        rig.wrong = Some(wrong);
        let error = tuner(&machine, 1).run_on(&mut rig, on).expect_err("wrong bits");
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
        let mut rig = Simulated::new(machine.clone(), seed);
        let tuned = tuner(&machine, seed).run_on(&mut rig, on).expect("tuned");
        for finding in &tuned.findings {
            let gain = rig.truth(&finding.case, &finding.default) / rig.truth(&finding.case, &finding.plan);
            assert!(gain > 0.99, "{}: a plan that is slower", finding.case);
            replaced += usize::from(finding.plan != finding.default && gain < 1.005);
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
        let mut rig = Simulated::new(machine.clone(), 3);
        let tuned = tuner(&machine, 3).time_limit(limit).run_on(&mut rig, on).expect("tuned");
        // One sample of each state of the caches may exceed it.
        assert!(rig.now() < limit + Duration::from_secs(3), "{limit:?}: {:?}", rig.now());
        for finding in tuned.findings {
            let against =
                rig.truth(&finding.case, &finding.plan) / rig.truth(&finding.case, &finding.default);
            assert!(against < 1.05, "{}: {against} of the default", finding.case);
        }
    }
}

#[test]
fn a_clock_that_jumps_gives_safe_plans() {
    let machine = machine(2, 1);
    let (mut whole, mut cut) = (0, 0);
    for (seed, jumps) in (0..30).zip([1e-4, 1e-3, 0.3].into_iter().cycle()) {
        let mut rig = Simulated::new(machine.clone(), seed);
        rig.jumps = jumps;
        // A profile with another processor's backends cannot be read back.
        let tuner = tuner(&machine, seed).backends(Backend::available());
        let tuned = tuner.run_on(&mut rig, on).expect("tuned");
        for finding in &tuned.findings {
            let against =
                rig.truth(&finding.case, &finding.plan) / rig.truth(&finding.case, &finding.default);
            assert!(against < 1.05, "{}: {against} of the default", finding.case);
            let numbers = finding.nanoseconds.into_iter().chain(finding.interval.into_iter().flatten());
            assert!(numbers.chain(finding.default_nanoseconds).all(f64::is_finite), "{finding:?}");
        }
        let written = tuned.document.to_toml().expect("text");
        assert_eq!(lion_autotune::Document::parse(&written).expect("a profile"), tuned.document);
        // An hour ahead is past the end.
        *if rig.now() < Duration::from_secs(3600) { &mut whole } else { &mut cut } += 1;
    }
    assert!(whole > 0 && cut > 0, "{whole} without a jump ahead, {cut} with one");
}

#[test]
fn it_goes_on_where_it_was_stopped() {
    let machine = machine(2, 1);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tuning.jsonl");
    let tune = |seed: u64, stop: usize| {
        let mut rig = Simulated::new(machine.clone(), 5);
        // What was found before must be legal here to be gone on with.
        let tuner = tuner(&machine, seed).backends([Backend::Scalar]);
        let journal = Journal::open(&path).expect("a journal");
        let tuned = tuner.journal(journal).run_on(&mut rig, |progress| match progress.done >= stop {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        tuned.expect("tuned")
    };
    let first = tune(1, 3);
    assert!(first.stopped && first.findings.len() == 3);
    let second = tune(1, 100);
    assert!(!second.stopped);
    assert_eq!(
        second.findings.iter().take(3).map(|it| &it.trials).collect::<Vec<_>>(),
        first.findings.iter().map(|it| &it.trials).collect::<Vec<_>>()
    );
    assert_eq!(Journal::read(&path).expect("a record").findings.len(), second.findings.len());
    // Another seed is another tuning.
    assert_eq!(tune(2, 1).findings.len(), 1);
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
    let mut rig = Simulated::new(machine, 1);
    let tuned = estimate.run_on(&mut rig, on).expect("an estimate");
    assert!(rig.now().is_zero() && tuned.findings.len() == cases.len());
    for &level in Level::ALL {
        assert_eq!(level.name().parse::<Level>().expect("a level"), level);
    }
}

/// Between the classes the threshold lies where one thread and more are equally fast.
#[test]
fn the_threshold_is_where_threads_begin_to_pay() {
    let machine = machine(2, 1);
    let mut rig = Simulated::new(machine.clone(), 11);
    (rig.noise, rig.spikes, rig.drift) = (0.01, 0.0, 0.0);
    let tuned = tuner(&machine, 11).run_on(&mut rig, on).expect("tuned");
    let placed = |plan: &Plan| plan.parallel_threshold.filter(|_| plan.threads.is_none_or(|it| it.get() > 1));
    let parallel = tuned.findings.iter().find_map(|it| Some((it.plan, placed(&it.plan)?)));
    let (plan, threshold) = parallel.expect("a plan on two threads");
    let at = |bytes: usize, plan: Plan| {
        let case = Case { bytes, operation: Operation::Step, dtypes: Dtypes::all(Dtype::F32) };
        rig.truth(&case, &plan)
    };
    assert!(threshold > 0, "{plan:?}");
    let ratio = at(threshold, plan.parallel_threshold(0)) / at(threshold, plan.threads(1));
    assert!((0.8..1.1).contains(&ratio), "{ratio} at {threshold}");
}
