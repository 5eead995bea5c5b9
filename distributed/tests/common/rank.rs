//! A small optimizer on three ranks, and the calls that tests make wrong.
#![allow(dead_code)]

use lion::{Builder, Dtype, Lion, Outcome};
use lion_distributed::{Communicator, Error, Settings, Sharded, ThreadCommunicator, Update, Variable};

pub(crate) const RANKS: usize = 3;
pub(crate) const LEN: usize = 10_000;

pub(crate) fn variables() -> Vec<Variable> {
    vec![Variable::new("a", &[LEN], Dtype::F32), Variable::new("b", &[2, 3], Dtype::BF16)]
}

pub(crate) fn build(builder: Builder) -> Lion {
    builder.build().expect("valid")
}

/// A rank with its parameters, which makes calls that go right and calls that do not.
pub(crate) struct Rank {
    pub(crate) sharded: Sharded<ThreadCommunicator>,
    pub(crate) a: Vec<f32>,
    pub(crate) b: Vec<half::bf16>,
}

impl Rank {
    pub(crate) fn new(communicator: ThreadCommunicator, builder: Builder) -> Self {
        let sharded = Sharded::new(communicator, build(builder), &variables(), Settings::new(RANKS));
        Rank { sharded: sharded.expect("an optimizer"), a: vec![1.0; LEN], b: vec![half::bf16::ONE; 6] }
    }

    pub(crate) fn rank(&self) -> usize {
        self.sharded.communicator().rank()
    }

    pub(crate) fn apply(&mut self, gradient: &[f32]) -> Result<Outcome, Error> {
        let ids = self.sharded.ids().to_vec();
        let leaves = [gradient.into()];
        let mut updates =
            [Update::new(ids[0], &mut self.a, &leaves), Update::without_gradient(ids[1], &mut self.b)];
        self.sharded.apply(&mut updates).map(|metrics| metrics.outcome)
    }

    /// All that a call may change.
    pub(crate) fn state(&self) -> String {
        let optimizer = self.sharded.optimizer();
        let state = lion_tests::checkpoint_text(&optimizer.checkpoint().expect("no open step"));
        format!("{state} {:?} {:?}", self.a, self.b)
    }
}
