//! Tests in burn-train's learner, which shares the model with its caller, and with one of burn's schedules.

use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::optim::ModuleOptimizer;
use burn::train::Learner;
use lion_burn::LionConfig;

use crate::network::{Found, Network, batch, look};

fn trained(start: &Network, optimizer: ModuleOptimizer) -> Vec<Found> {
    let schedule = CosineAnnealingLrSchedulerConfig::new(0.01, 10).init().expect("a schedule");
    let mut learner = Learner::new(start.clone(), optimizer, schedule);
    for step in 0..8 {
        learner.lr_step();
        let found = learner.train_step(batch(step));
        learner.optimizer_step(found.grads);
    }
    look(&learner.model(), None)
}

#[test]
fn the_learner_trains_as_with_burns_own() {
    let start = Network::new();
    let before = look(&start, None);
    let found = trained(&start, LionConfig::new().init());
    assert_eq!(found, trained(&start, burn::optim::LionConfig::new().init()));
    assert_ne!(found, before);
    // The caller's model has not changed.
    assert_eq!(look(&start, None), before);
}
