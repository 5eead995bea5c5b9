//! Tests of the options that candle's own optimizers do not have.

use candle_core::{DType, Device, Var};
use candle_nn::Optimizer;
use lion_candle::{DynamicLossScale, Group, Lion, Outcome, VariableOptions};

fn ones() -> Var {
    Var::ones(2, DType::F32, &Device::Cpu).expect("a variable")
}

fn values(var: &Var) -> Vec<f32> {
    var.to_vec1().expect("values")
}

#[test]
fn a_scaled_loss_is_unscaled() {
    let var = ones();
    let builder =
        Lion::builder().learning_rate(0.5).clipnorm(1.0).dynamic_loss_scale(DynamicLossScale::default());
    let mut optimizer = Lion::new(vec![var.clone()], builder).expect("made");
    let loss = optimizer.scale_loss(&var.sum_all().expect("a sum")).expect("scaled");
    let gradients = loss.backward().expect("gradients");
    assert_eq!(gradients.get(&var).expect("a gradient").to_vec1::<f32>().expect("values"), [32768.0; 2]);
    optimizer.step(&gradients).expect("a step");
    assert_eq!(optimizer.metrics().and_then(|metrics| metrics.gradient_norm), Some(2.0_f32.sqrt()));

    let infinite = (loss * f64::INFINITY).expect("a loss").backward().expect("gradients");
    optimizer.step(&infinite).expect("skipped");
    assert_eq!(optimizer.metrics().map(|metrics| metrics.outcome), Some(Outcome::Skipped));
    assert_eq!((values(&var), optimizer.core().iterations()), (vec![0.5; 2], 1));
}

#[test]
fn groups_and_accumulation() {
    let (fast, slow) = (ones(), ones());
    let builder = Lion::builder().learning_rate(0.5).gradient_accumulation_steps(2);
    let mut optimizer = Lion::empty(builder).expect("made");
    let group = optimizer.core_mut().add_group(Group::new().learning_rate_multiplier(0.5)).expect("valid");
    optimizer.push("fast", &fast).expect("added");
    optimizer.push_with("slow", &slow, VariableOptions { group, ..Default::default() }).expect("added");
    for expected in [[1.0, 1.0], [0.5, 0.75]] {
        let sum = (fast.sum_all().expect("a sum") + slow.sum_all().expect("a sum")).expect("a sum");
        optimizer.backward_step(&sum).expect("a step");
        assert_eq!([values(&fast)[0], values(&slow)[0]], expected);
    }
}

#[test]
fn the_average_at_the_end() {
    let var = ones();
    let mut optimizer =
        Lion::new(vec![var.clone()], Lion::builder().learning_rate(0.5).ema(0.5)).expect("made");
    for _ in 0..2 {
        optimizer.backward_step(&var.sum_all().expect("a sum")).expect("a step");
    }
    assert_eq!(values(&var), [0.0; 2]);
    optimizer.finalize_variable_values().expect("done");
    // Half of the first value, 0.5, and half of the second, 0.
    assert_eq!(values(&var), [0.25; 2]);
}
