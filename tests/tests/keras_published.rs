//! The expectations of Keras's own tests, version 3.15.1, that apply to Lion: lion_test.py, optimizer_test.py and
//! loss_scale_optimizer_test.py. Its tests of schedules are in `schedule`, its tests of configs in `config`.
//!
//! Many of Keras's tests use plain gradient descent with gradients of one and a learning rate of one. Lion moves by the
//! sign, so it gives the same numbers.

use lion::Builder;
use lion::prelude::*;

/// An optimizer with one variable of this name, and the variable's values.
struct One {
    optimizer: Lion,
    id: VariableId,
    values: Vec<f32>,
}

impl One {
    fn new(builder: Builder, name: &str, values: &[f32]) -> Self {
        Self::with(builder, name, values, VariableOptions::default())
    }

    fn with(builder: Builder, name: &str, values: &[f32], options: VariableOptions) -> Self {
        let mut optimizer = builder.build().expect("valid");
        let id = optimizer.register_with(name, &[values.len()], Dtype::F32, options).expect("registered");
        One { optimizer, id, values: values.into() }
    }

    fn apply(&mut self, gradient: &[f32]) -> Outcome {
        let updates = &mut [Update::new(self.id, &mut self.values, gradient)];
        self.optimizer.apply(updates).expect("applied").outcome
    }

    fn average(&self) -> &[f32] {
        self.optimizer.view(self.id).and_then(|state| state.ema).expect("it keeps one")
    }

    fn accumulator(&self) -> &[f32] {
        self.optimizer.view(self.id).and_then(|state| state.accumulator).expect("it keeps one")
    }
}

/// Keras's own tolerance, or that of the test.
#[track_caller]
fn close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let within = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance * (1.0 + b.abs());
    assert!(found.iter().zip(expected).all(within), "{found:?} instead of {expected:?}");
}

fn lion(learning_rate: f64) -> Builder {
    Lion::builder().learning_rate(learning_rate)
}

/// LionTest.test_invalid_beta_1
#[test]
fn invalid_beta_1() {
    for beta_1 in [-0.1, 0.0, 1.1] {
        let error = Lion::builder().beta_1(beta_1).build().expect_err("refused").to_string();
        assert_eq!(error, format!("beta_1 is {beta_1}, and must be in (0, 1]"));
    }
}

/// LionTest.test_single_step
#[test]
fn single_step() {
    let mut one = One::new(lion(0.5), "v", &[1.0, 2.0, 3.0, 4.0]);
    one.apply(&[1.0, 6.0, 7.0, 2.0]);
    close(&one.values, &[0.5, 1.5, 2.5, 3.5], 1e-4);
}

/// LionTest.test_weight_decay: there the first of the variables is moved by three optimizers in turn.
#[test]
fn weight_decay() {
    let decaying = || lion(1.0).weight_decay(0.004);
    let excluded = VariableOptions { exclude_from_weight_decay: true, ..Default::default() };
    let mut first = One::new(decaying(), "v", &[2.0]);
    let mut by_name = One::new(decaying().exclude_from_weight_decay("exclude"), "exclude", &[2.0]);
    let mut by_variable = One::with(decaying(), "v", &[2.0], excluded);
    for _ in 0..3 {
        first.apply(&[0.0]);
    }
    by_name.apply(&[0.0]);
    by_variable.apply(&[0.0]);
    close(&first.values, &[1.976_095_9], 1.5e-6);
    assert_eq!((by_name.values, by_variable.values), (vec![2.0], vec![2.0]));
}

/// LionTest.test_correctness_with_golden
#[test]
fn correctness_with_golden() {
    let mut one = One::new(Lion::builder(), "x", &[1.0; 10]);
    let gradients: Vec<f32> = (1..=10).map(|tenths| tenths as f32 / 10.0).collect();
    one.apply(&[0.01; 10]);
    for golden in [0.999, 0.998, 0.997, 0.996, 0.995] {
        close(&one.values, &[golden; 10], 5e-4);
        one.apply(&gradients);
    }
}

/// LionTest.test_clip_norm, test_clip_value and OptimizerTest.test_global_clip_norm look at clipped gradients; here
/// they are seen in a momentum that is nothing but the gradient.
#[test]
fn clips() {
    let clipped = |builder: Builder, gradient: &[f32]| {
        let mut one = One::new(builder.beta_2(0.0), "v", &vec![0.0; gradient.len()]);
        one.apply(gradient);
        one.optimizer.momentum(one.id).and_then(|it| it.as_slice::<f32>()).expect("is f32").to_vec()
    };
    let half = 2.0_f32.sqrt() / 2.0;
    close(&clipped(Lion::builder().clipnorm(1.0), &[100.0, 100.0]), &[half, half], 1e-6);
    close(&clipped(Lion::builder().clipvalue(1.0), &[100.0, 100.0]), &[1.0, 1.0], 1e-6);
    let norm = 12_500.0_f32.sqrt();
    let expected = [50.0 / norm, 100.0 / norm];
    close(&clipped(Lion::builder().global_clipnorm(1.0), &[50.0, 100.0]), &expected, 1e-6);
}

/// OptimizerTest.test_clip_args
#[test]
fn several_clips() {
    for builder in
        [Lion::builder().clipnorm(0.1).clipvalue(0.1), Lion::builder().clipnorm(0.1).global_clipnorm(0.1)]
    {
        let error = builder.build().expect_err("refused").to_string();
        assert!(
            error.ends_with("at most one of clipnorm, global_clipnorm and clipvalue may be set"),
            "{error}"
        );
    }
}

/// OptimizerTest.test_ema
#[test]
fn ema() {
    let builder = lion(1.0).ema(0.9).ema_overwrite_frequency(3);
    let mut one = One::new(builder, "v", &[3.0, 4.0, 5.0, 6.0]);
    for (values, average) in [
        ([2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0]),
        ([1.0, 2.0, 3.0, 4.0], [1.9, 2.9, 3.9, 4.9]),
        // The variable is overwritten with its average.
        ([1.71, 2.71, 3.71, 4.71], [1.71, 2.71, 3.71, 4.71]),
    ] {
        one.apply(&[1.0; 4]);
        close(&one.values, &values, 1e-6);
        close(one.average(), &average, 1e-6);
    }
}

/// OptimizerTest.test_constraints_are_applied
#[test]
fn constraints_are_applied() {
    let options = VariableOptions { constraint: Some(Constraint::non_negative()), ..Default::default() };
    let mut one = One::with(lion(0.0001), "v", &[-0.9, -0.2, -0.5, -0.01], options);
    one.apply(&[0.0; 4]);
    assert_eq!(one.values, [0.0; 4]);
}

/// OptimizerTest.test_static_loss_scaling: there a gradient that equals its variable brings it to zero, and here one of
/// the sign of its variable, which is one.
#[test]
fn static_loss_scaling() {
    let mut one = One::new(lion(1.0).beta_2(0.0).loss_scale_factor(1024.0), "v", &[1.0; 4]);
    assert_eq!(one.optimizer.scale_loss(1.0), 1024.0);
    one.apply(&[1024.0, 2048.0, 3072.0, 4096.0]);
    assert_eq!(one.values, [0.0; 4]);
    let momentum = one.optimizer.momentum(one.id).and_then(|it| it.as_slice::<f32>());
    assert_eq!(momentum, Some(&[1.0, 2.0, 3.0, 4.0][..]));
}

/// OptimizerTest.test_gradient_accumulation. What Keras calls `iterations` there is this number over the steps.
#[test]
fn gradient_accumulation() {
    let mut one = One::new(lion(1.0).gradient_accumulation_steps(3), "v", &[1.0, 2.0, 3.0, 4.0]);
    for (call, (values, accumulator)) in [
        ([1.0, 2.0, 3.0, 4.0], 1.0),
        ([1.0, 2.0, 3.0, 4.0], 2.0),
        ([0.0, 1.0, 2.0, 3.0], 0.0),
        ([0.0, 1.0, 2.0, 3.0], 1.0),
    ]
    .into_iter()
    .enumerate()
    {
        one.apply(&[1.0; 4]);
        assert_eq!((one.values.as_slice(), one.accumulator()), (&values[..], &[accumulator; 4][..]));
        assert_eq!(one.optimizer.iterations(), call as u64 + 1);
        assert_eq!(one.optimizer.iterations() / 3, u64::from(call >= 2));
    }
}

/// OptimizerTest.test_gradient_accumulation_with_weigth_decay, which names Lion: accumulated gradients move a variable
/// as their mean does.
#[test]
fn gradient_accumulation_with_weight_decay() {
    let builder = || Lion::builder().weight_decay(0.05);
    let mut alone = One::new(builder(), "v", &[0.9, 0.5]);
    let mut accumulated = One::new(builder().gradient_accumulation_steps(3), "v", &[0.9, 0.5]);
    let mut rng = lion_tests::Rng::with_seed(3);
    for _ in 0..8 {
        let gradients = [(); 3].map(|()| [rng.f32(), rng.f32()]);
        let mean = [0, 1].map(|place| gradients.iter().map(|gradient| gradient[place]).sum::<f32>() / 3.0);
        alone.apply(&mean);
        for gradient in gradients {
            accumulated.apply(&gradient);
        }
    }
    close(&accumulated.values, &alone.values, 1e-6);
}

/// OptimizerTest.test_callable_learning_rate
#[test]
fn callable_learning_rate() {
    let mut one =
        One::new(Lion::builder().learning_rate(Schedule::from_fn(|_| 0.1)), "v", &[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(one.optimizer.iterations(), 0);
    one.apply(&[1.0; 4]);
    close(&one.values, &[0.9, 1.9, 2.9, 3.9], 1e-6);
    assert_eq!(one.optimizer.iterations(), 1);
}

/// OptimizerTest.test_overwrite_with_gradient, and the same with accumulation, in which the second variable's numbers
/// are those of a step by the sign.
#[test]
fn overwrite_with_gradient() {
    let options = VariableOptions { overwrite_with_gradient: true, ..Default::default() };
    let mut optimizer = lion(1.0).build().expect("valid");
    let a = optimizer.register_with("a", &[4], Dtype::F32, options.clone()).expect("registered");
    let b = optimizer.register("b", &[4], Dtype::F32).expect("registered");
    let (mut v, mut w) = ([1.0_f32, 2.0, 3.0, 4.0], [1.0_f32, 2.0, 3.0, 4.0]);
    let ones = [1.0_f32; 4];
    optimizer
        .apply(&mut [Update::new(a, &mut v[..], &ones[..]), Update::new(b, &mut w[..], &ones[..])])
        .expect("applied");
    assert_eq!((v, w), ([1.0; 4], [0.0, 1.0, 2.0, 3.0]));

    let builder = lion(1.0).gradient_accumulation_steps(2);
    let mut one = One::with(builder, "v", &[1.0, 2.0, 3.0, 4.0], options);
    for (gradient, values, accumulator) in
        [(1.0, [1.0, 2.0, 3.0, 4.0], 1.0), (2.0, [2.0; 4], 0.0), (1.0, [2.0; 4], 1.0)]
    {
        one.apply(&[gradient; 4]);
        assert_eq!((one.values.as_slice(), one.accumulator()), (&values[..], &[accumulator; 4][..]));
    }
}

fn dynamic(scale: Option<f64>, growth: Option<u64>) -> DynamicLossScale {
    let mut dynamic = DynamicLossScale::default();
    dynamic.initial_scale = scale.unwrap_or(dynamic.initial_scale);
    dynamic.dynamic_growth_steps = growth.unwrap_or(dynamic.dynamic_growth_steps);
    dynamic
}

/// LossScaleOptimizerTest.test_finite_step, test_finite_step_with_inner_loss_scale, test_infinite_step and
/// test_finite_step_with_overwrite
#[test]
fn steps_of_a_dynamic_loss_scale() {
    let scaled = [1.0_f32, 6.0, 7.0, 2.0].map(|g| g * 32_768.0);
    let start = [1.0, 2.0, 3.0, 4.0];
    for builder in [lion(0.5), lion(0.5).loss_scale_factor(100.0)] {
        let mut one = One::new(builder.beta_2(0.0).dynamic_loss_scale(dynamic(None, None)), "v", &start);
        assert_eq!(one.apply(&scaled), Outcome::Updated);
        assert_eq!(one.values, [0.5, 1.5, 2.5, 3.5]);
        let momentum = one.optimizer.momentum(one.id).and_then(|it| it.as_slice::<f32>());
        assert_eq!(momentum, Some(&[1.0, 6.0, 7.0, 2.0][..]));
        assert_eq!(one.apply(&[f32::INFINITY; 4]), Outcome::Skipped);
        assert_eq!(one.values, [0.5, 1.5, 2.5, 3.5]);
    }
    let options = VariableOptions { overwrite_with_gradient: true, ..Default::default() };
    let mut one = One::with(lion(0.5).dynamic_loss_scale(dynamic(None, None)), "v", &start, options);
    one.apply(&[1.0, 6.0, 7.0, 2.0]);
    assert_eq!(one.values, [1.0, 6.0, 7.0, 2.0]);
}

/// LossScaleOptimizerTest.test_downscaling, test_upscaling and test_iterations_update
#[test]
fn the_dynamic_scale() {
    let mut down = One::new(lion(0.5).dynamic_loss_scale(dynamic(Some(400.0), None)), "v", &[1.0]);
    for _ in 0..4 {
        down.apply(&[f32::INFINITY]);
    }
    assert_eq!(down.optimizer.scale_loss(1.0), 25.0);
    let mut up = One::new(lion(0.5).dynamic_loss_scale(dynamic(Some(2.0), Some(2))), "v", &[1.0]);
    for call in 0..8 {
        assert_eq!(up.optimizer.iterations(), call);
        up.apply(&[6.0]);
    }
    assert_eq!(up.optimizer.scale_loss(1.0), 32.0);
}
