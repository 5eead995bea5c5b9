//! Warnings in the log: one for each kind of training that fails silently, and none for others.

use std::cell::RefCell;

use half::bf16;
use lion::schedule::{CosineDecay, PiecewiseConstantDecay};
use lion::{Builder, Dtype, DynamicLossScale, Group, Lion, Update, VariableOptions};

thread_local! {
    /// What the test of this thread has been warned of.
    static WARNINGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        assert!(record.target().starts_with("lion"), "{record:?}");
        WARNINGS.with_borrow_mut(|warnings| warnings.push(record.args().to_string()));
    }

    fn flush(&self) {}
}

fn warnings() -> Vec<String> {
    WARNINGS.with_borrow_mut(std::mem::take)
}

fn build(builder: Builder) -> Lion {
    // The first test sets it for all.
    let _ = log::set_logger(&Log);
    log::set_max_level(log::LevelFilter::Warn);
    builder.build().expect("an optimizer")
}

/// Calls with variables `a` and `b` of ones in bf16, after each of which the warnings are counted.
fn train(optimizer: &mut Lion, calls: usize) -> Vec<usize> {
    let variables: Vec<_> = optimizer.variables().map(|variable| variable.id).collect();
    let step = |_| {
        let (mut a, mut b) = ([bf16::ONE; 6], [bf16::ONE; 6]);
        let mut updates: Vec<_> = variables
            .iter()
            .zip([&mut a, &mut b])
            .map(|(&variable, parameter)| Update::new(variable, &mut parameter[..], &[1.0_f32; 6][..]))
            .collect();
        optimizer.apply(&mut updates).expect("a call");
        WARNINGS.with_borrow(Vec::len)
    };
    (0..calls).map(step).collect()
}

fn with_two(builder: Builder) -> Lion {
    let mut optimizer = build(builder);
    for name in ["a", "b"] {
        optimizer.register(name, &[6], Dtype::BF16).expect("registered");
    }
    optimizer
}

#[test]
fn bf16_weights_that_do_not_move() {
    let mut optimizer = with_two(Lion::builder().learning_rate(1e-4));
    assert_eq!(train(&mut optimizer, 9), [1; 9]);
    assert_eq!(train(&mut optimizer.clone(), 9), [1; 9]);
    assert_eq!(
        warnings(),
        [
            "variable \"a\": a step of 0.0001 does not move 100 % of its bf16 elements, as it rounds to nothing; \
          use a larger learning rate, stochastic_rounding, split_master, or an f32 parameter with a bf16 copy (and 1 other variable)"
        ]
    );
}

#[test]
fn no_warning_of_weights_that_move_or_are_meant_to_stay() {
    assert_eq!(train(&mut with_two(Lion::builder().learning_rate(0.01)), 9), [0; 9]);
    assert_eq!(train(&mut with_two(Lion::builder().learning_rate(0.0)), 9), [0; 9]);
    let mut frozen = build(Lion::builder().learning_rate(1e-4));
    let group = frozen.add_group(Group::new().learning_rate_multiplier(0.0)).expect("a group");
    let options = VariableOptions { group, ..Default::default() };
    frozen.register_with("a", &[6], Dtype::BF16, options).expect("registered");
    assert_eq!(train(&mut frozen, 9), [0; 9]);
    // An f32 parameter moves, whatever its copy does.
    let mut optimizer = build(Lion::builder().learning_rate(1e-4));
    let id = optimizer.register("a", &[1], Dtype::F32).expect("registered");
    let (mut parameter, mut copy) = ([1.0_f32], [bf16::ONE]);
    let update = Update::new(id, &mut parameter[..], &[1.0_f32][..]).copy(&mut copy[..]);
    optimizer.apply(&mut [update]).expect("a call");
    assert!(warnings().is_empty());
}

#[test]
fn a_warm_up_is_waited_for() {
    // From 0 to a rate that moves them, in which they stall at first.
    let warm_up = CosineDecay::new(0.0, 1e9).and_then(|it| it.warmup(0.01, 100.0)).expect("a schedule");
    assert_eq!(train(&mut with_two(Lion::builder().learning_rate(warm_up)), 130), [0; 130]);
    // A rate that stays from the first check to the second does not rise, whatever comes later.
    let steps = PiecewiseConstantDecay::new([3.0], [1e-5, 1e-4]).expect("a schedule");
    let mut expected = [0; 9];
    expected[1..].fill(1);
    assert_eq!(train(&mut with_two(Lion::builder().learning_rate(steps)), 9), expected);
    assert_eq!(warnings().len(), 1);
}

#[test]
fn loss_scales_that_cannot_change_any_more() {
    let mut scale = DynamicLossScale::default();
    scale.dynamic_growth_steps = 1;
    for (last, expected) in
        [(f32::MAX, "the dynamic loss scale is inf: "), (f32::from_bits(1), "the dynamic loss scale is 0: ")]
    {
        let mut optimizer = build(Lion::builder().learning_rate(0.1).dynamic_loss_scale(scale.clone()));
        let id = optimizer.register("a", &[1], Dtype::F32).expect("registered");
        optimizer.set_dynamic_loss_scale(last, 0).expect("a scale");
        let gradient = [if last > 1.0 { 1.0_f32 } else { f32::INFINITY }];
        for _ in 0..4 {
            optimizer.apply(&mut [Update::new(id, &mut [1.0_f32][..], &gradient[..])]).expect("a call");
        }
        let said = warnings();
        assert!(said.len() == 1 && said[0].starts_with(expected), "{said:?}");
    }
}
