//! Tests that records interchange with burn's Lion, and that a resumed training continues unchanged.

use burn::optim::ModuleOptimizer;
use lion_burn::LionConfig;

use crate::network::{Found, Network, look};

/// Makes three steps with one optimizer, and three with another that has loaded its record.
fn resumed(first: ModuleOptimizer, second: ModuleOptimizer, start: &Network) -> Vec<Found> {
    let steps = |mut optimizer: ModuleOptimizer, mut model: Network, range: std::ops::Range<usize>| {
        for step in range {
            let gradients = model.gradients(step);
            model = optimizer.step(0.01, model, gradients);
        }
        (optimizer, model)
    };
    let (first, model) = steps(first, start.clone(), 0..3);
    let second = second.from_bytes(first.into_bytes().expect("a record")).expect("loaded");
    look(&steps(second, model, 3..6).1, None)
}

#[test]
fn records_interchange_with_burns_own() {
    let ours = || LionConfig::new().init();
    let theirs = || burn::optim::LionConfig::new().init();
    let start = Network::new();
    let expected = resumed(ours(), ours(), &start);
    assert_ne!(expected, look(&start, None));
    // Without weight decay, both round alike, so a lost momentum would show.
    assert_eq!(resumed(theirs(), ours(), &start), expected);
    assert_eq!(resumed(ours(), theirs(), &start), expected);
    assert_eq!(resumed(theirs(), theirs(), &start), expected);
}

#[test]
fn configs_interchange_with_burns_own() {
    use burn::config::Config;

    let theirs = burn::optim::LionConfig::new().with_beta_1(0.95).with_weight_decay(0.1);
    let ours = LionConfig::new().with_beta_1(0.95).with_weight_decay(0.1);
    assert_eq!(ours.to_string(), theirs.to_string());
    let clipping = burn::grad_clipping::GradientClippingConfig::Norm(1.0);
    let clipped = ours.with_grad_clipping(Some(clipping)).init();
    assert!(clipped.has_gradient_clipping());
    assert!(LionConfig::load_binary(theirs.to_string().as_bytes()).is_ok());
}
