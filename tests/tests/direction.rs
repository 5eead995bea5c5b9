//! The directions that a step writes, on every backend against the reference; and steps that follow them, which have the
//! bits of the step itself.

use half::{bf16, f16};
use lion_kernels::reference::Settings;
use lion_kernels::{
    Backend, Dtype, Error, LionStep, Plan, STATISTICS_BLOCK, StepTensors, StochasticRounding, Task, run,
};
use lion_tests::{Case, Guarded, PLAIN, Rng, Sample, bits, for_each_triple, on_each_backend, settings};

on_each_backend!(every_length, every_setting, rounded_at_random, in_parts_and_on_threads);

const MASKED: Settings = Settings { weight_decay: Some(0.1), masked_decay: true, ..PLAIN };

const FULL: Settings = Settings {
    weight_decay: Some(0.1),
    loss_scale: Some(3.0),
    accumulation_steps: Some(3),
    global_clip_norm: Some((1.5, 2.0)),
    ema_momentum: Some(0.99),
    ..PLAIN
};

fn every_length(backend: Backend) {
    fn triple<P: Sample, G: Sample, M: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x51);
        for len in (0..=67).chain([511, 512, 513, 1100]) {
            for pass in [PLAIN, MASKED, FULL] {
                check::<P, G, M, bf16>(backend, &mut rng, pass, len);
            }
        }
    }
    for_each_triple!(triple, backend);
}

fn every_setting(backend: Backend) {
    fn triple<P: Sample, G: Sample, M: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x52);
        let clipped = [
            Settings { clip_value: Some(0.25), ..MASKED },
            Settings { clip_norm: Some((1.0, 7.0)), ..MASKED },
            Settings { clip_norm: Some((1.0, f32::NAN)), global_clip_norm: None, ..FULL },
            Settings { global_clip_norm: Some((0.3, f32::INFINITY)), ..PLAIN },
            Settings { loss_scale: Some(1024.0), ..PLAIN },
            Settings { maximize: true, ..MASKED },
            Settings { decay_rate: Some(0.3), weight_decay: Some(0.01), beta_1: 1.0, ..PLAIN },
            Settings { learning_rate: 0.0, weight_decay: Some(0.0), ..PLAIN },
            Settings { learning_rate: 1e30, beta_1: 0.0, beta_2: 0.0, ..PLAIN },
        ];
        for pass in clipped {
            check::<P, G, M, f32>(backend, &mut rng, pass, 77);
            check::<P, G, M, f16>(backend, &mut rng, pass, 77);
            check::<P, G, M, bf16>(backend, &mut rng, pass, 77);
        }
    }
    for_each_triple!(triple, backend);
}

/// Holds a step that writes its directions to the reference, and one that follows them to the step.
fn check<P: Sample, G: Sample, M: Sample, D: Sample>(
    backend: Backend,
    rng: &mut Rng,
    pass: Settings,
    len: usize,
) {
    let case = Case::<P, G, M>::new(rng, pass, None, len);
    let what = format!("{}/{}/{} {} {pass:?} of {len}", P::DTYPE, G::DTYPE, M::DTYPE, D::DTYPE);
    let averages = pass.accumulation_steps.is_some();
    let expected = pass.directions(&case.gradient, &case.momentum, averages.then_some(&case.accumulator));
    let expected: Vec<D> = expected.into_iter().map(D::round).collect();

    let [at_p, at_g, at_m] = case.misalignment;
    let mut directions = Guarded::new(&vec![D::round(7.0); len], at_g);
    case.check_step(true, |step, tensors| {
        Task::step(step, tensors.direction(directions.tensor_mut()))?.run(backend)
    });
    directions.assert_holds(&expected, &what);

    let (mut stepped, mut momentum) = (case.parameter.clone(), case.momentum.clone());
    let (mut sums, mut average) = (case.accumulator.clone(), case.average.clone());
    pass.step::<P, G, M, f32>(
        &mut stepped,
        &case.gradient,
        &mut momentum,
        averages.then_some(&mut sums),
        pass.ema_momentum.map(|_| &mut average[..]),
        None,
    );
    let mut copy = Guarded::new(&case.parameter, at_p + at_m);
    let step = settings(&pass).expect("valid");
    let follow = Task::follow(step, copy.tensor_mut(), directions.tensor());
    follow.and_then(|mut task| task.run(backend)).expect("it follows");
    copy.assert_holds(&stepped, &format!("{what}: the copy"));
    directions.assert_holds(&expected, &format!("{what}: read"));
}

fn rounded_at_random(backend: Backend) {
    let mut rng = Rng::with_seed(0x53);
    let rounding = StochasticRounding::variable_key(5, "a").at_step(9);
    for (pass, len, first) in [(PLAIN, 100, 0), (MASKED, 1030, 64), (FULL, 513, 4096)] {
        let case = Case::<bf16, f32, f32>::new(&mut rng, pass, None, len);
        let (mut stepped, mut momentum) = (case.parameter.clone(), case.momentum.clone());
        let (mut sums, mut average) = (case.accumulator.clone(), case.average.clone());
        let (mut copy, mut directions) = (case.parameter.clone(), vec![f16::ZERO; len]);
        let step = settings(&pass).expect("valid").stochastic_rounding(rounding);
        let mut tensors = StepTensors::in_place(&mut stepped, &case.gradient, &mut momentum);
        if pass.accumulation_steps.is_some() {
            tensors = tensors.accumulator(&mut sums).ema(&mut average);
        }
        let task = Task::step(step, tensors.direction(&mut directions));
        task.and_then(|task| task.starting_at(first)?.run(backend)).expect("a step");
        let task = Task::follow(step, &mut copy, &directions);
        task.and_then(|task| task.starting_at(first)?.run(backend)).expect("it follows");
        assert_eq!(bits(&copy), bits(&stepped));
        // Another place, and so other draws.
        copy.copy_from_slice(&case.parameter);
        let task = Task::follow(step, &mut copy, &directions);
        task.and_then(|task| task.starting_at(first + 64)?.run(backend)).expect("it follows");
        assert_ne!(bits(&copy), bits(&stepped));
    }
}

fn in_parts_and_on_threads(backend: Backend) {
    let mut rng = Rng::with_seed(0x54);
    let len = 5 * STATISTICS_BLOCK + 333;
    let case = Case::<bf16, f32, bf16>::new(&mut rng, MASKED, None, len);
    let step = settings(&MASKED).expect("valid");
    let mut results = Vec::new();
    for threads in [1, 3] {
        let (mut p, mut m, mut directions) =
            (case.parameter.clone(), case.momentum.clone(), vec![bf16::ZERO; len]);
        let mut copy = p.clone();
        let plan = Plan::new(backend).threads(threads).chunk_elements(STATISTICS_BLOCK).parallel_threshold(0);
        let tensors = StepTensors::in_place(&mut p, &case.gradient, &mut m).direction(&mut directions);
        let task = Task::step(step, tensors).expect("a step");
        run(&plan, &mut [task]).expect("it runs");
        let task = Task::follow(step, &mut copy, &directions).expect("it follows");
        run(&plan, &mut [task]).expect("it runs");
        assert_eq!(bits(&copy), bits(&p));
        results.push((bits(&p), bits(&directions)));
    }
    assert!(results[0] == results[1]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let step = LionStep::new(0.1, 0.9, 0.99).expect("valid");
    let (mut p, g, mut m, mut d) = ([0.0_f32; 4], [0.0_f32; 4], [0.0_f32; 4], [0.0_f32; 4]);
    let tensors = StepTensors::in_place(&mut p, &g, &mut m).direction(&mut d[..3]);
    let error = Task::step(step, tensors).map(|_| ()).expect_err("shorter");
    assert!(matches!(error, Error::Length { .. }), "{error}");
    let mut integers = [0_i8; 4];
    let tensors = StepTensors::in_place(&mut p, &g, &mut m).direction(&mut integers);
    let error = Task::step(step, tensors).map(|_| ()).expect_err("integers").to_string();
    assert!(error.contains("direction is i8") || error.contains("i8"), "{error}");
    let error = Task::follow(step, &mut p, &d[..3]).map(|_| ()).expect_err("shorter");
    assert!(matches!(error, Error::Length { .. }), "{error}");
    let rounding = StochasticRounding::variable_key(5, "a").at_step(9);
    let error = Task::follow(step.stochastic_rounding(rounding), &mut p, &d).map(|_| ());
    assert!(matches!(error, Err(Error::Format { found: Dtype::F32, .. })), "{error:?}");
}
