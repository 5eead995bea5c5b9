//! Ranks that die and connections that fail: nobody waits for ever, and nothing changes unless the job is aborted.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::on_ranks;
use common::rank::{LEN, RANKS, Rank, build, variables};
use lion::Lion;
use lion_distributed::{
    CommunicationError, Communicator, Error, Settings, Sharded, ThreadCommunicator, Update,
};

/// A rank that panics or leaves: the others get an error instead of waiting for ever.
#[test]
fn a_rank_that_dies_ends_the_others() {
    let gradient = vec![1.0_f32; LEN];
    for panics in [false, true] {
        let found = on_ranks(RANKS, |communicator| {
            let mut rank = Rank::new(communicator, Lion::builder());
            rank.apply(&gradient).expect("applied");
            let before = rank.state();
            if rank.rank() == 1 {
                let dies = AssertUnwindSafe(|| {
                    let _rank = rank;
                    assert!(!panics, "the rank panics");
                });
                assert_eq!(catch_unwind(dies).is_err(), panics);
                return None;
            }
            let error = rank.apply(&gradient).expect_err("rank 1 has left");
            assert_eq!(rank.state(), before);
            let next = rank.apply(&gradient).expect_err("for good");
            Some((error.to_string(), next.to_string()))
        });
        let error = "the ranks cannot communicate: rank 1 has left";
        let next = format!("an earlier call failed for good: {error}");
        assert_eq!(found, [Some((error.into(), next.clone())), None, Some((error.into(), next))]);
    }
}

/// A rank that ends early, while the others are in a call.
#[test]
fn a_rank_that_ends_before_the_others() {
    let gradient = vec![1.0_f32; LEN];
    let found = on_ranks(RANKS, |mut communicator| {
        if communicator.rank() == 1 {
            // The same start, and then nothing more.
            let (optimizer, settings) = (build(Lion::builder()), Settings::new(RANKS));
            let sharded = Sharded::new(&mut communicator, optimizer, &variables(), settings);
            drop(sharded.expect("an optimizer"));
            return lion_distributed::end(&mut communicator).expect_err("the others go on").to_string();
        }
        let mut rank = Rank::new(communicator, Lion::builder());
        rank.apply(&gradient).expect_err("rank 1 has ended").to_string()
    });
    assert_eq!(found, vec!["the call of rank 1: the end of the run; expected apply, as on rank 0"; RANKS]);
    let found = on_ranks(RANKS, |mut communicator| lion_distributed::end(&mut communicator).is_ok());
    assert_eq!(found, vec![true; RANKS]);
}

/// Fails in a collective operation of one number, and counts aborts.
struct Failing {
    inner: ThreadCommunicator,
    operations: usize,
    fails_at: usize,
    aborts: std::sync::Arc<AtomicUsize>,
}

impl Failing {
    fn count(&mut self) -> Result<(), CommunicationError> {
        self.operations += 1;
        match self.operations == self.fails_at {
            true => {
                self.inner.abort("the cable is cut");
                Err(CommunicationError::new("the cable is cut"))
            }
            false => Ok(()),
        }
    }
}

impl Communicator for Failing {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn all_to_all(
        &mut self,
        send: &[u8],
        send_counts: &[usize],
        receive: &mut [u8],
        receive_counts: &[usize],
    ) -> Result<(), CommunicationError> {
        self.count()?;
        self.inner.all_to_all(send, send_counts, receive, receive_counts)
    }

    fn all_gather(
        &mut self,
        send: &[u8],
        receive: &mut [u8],
        counts: &[usize],
    ) -> Result<(), CommunicationError> {
        self.count()?;
        self.inner.all_gather(send, receive, counts)
    }

    fn all_reduce_min(&mut self, numbers: &mut [u64]) -> Result<(), CommunicationError> {
        self.count()?;
        self.inner.all_reduce_min(numbers)
    }

    fn broadcast(&mut self, from: usize, bytes: &mut [u8]) -> Result<(), CommunicationError> {
        self.count()?;
        self.inner.broadcast(from, bytes)
    }

    fn abort(&mut self, reason: &str) {
        self.aborts.fetch_add(1, Ordering::Relaxed);
        self.inner.abort(reason);
    }
}

/// A connection that fails at each operation of a call: before the first write nothing has changed on any rank; after it
/// the job is aborted.
#[test]
fn a_connection_that_fails_anywhere() {
    let gradient = vec![1.0_f32; LEN];
    let (mut before_writing, mut after) = (0, 0);
    // The agreement of the start, then: agreement, reduction, norms, agreement, parameters.
    for fails_at in 2..=6 {
        let found = on_ranks(RANKS, |inner| {
            let aborts = std::sync::Arc::new(AtomicUsize::new(0));
            let fails_at = if inner.rank() == 1 { fails_at } else { usize::MAX };
            let communicator =
                Failing { inner, operations: 0, fails_at, aborts: std::sync::Arc::clone(&aborts) };
            let optimizer = build(Lion::builder().learning_rate(0.5).global_clipnorm(1.0));
            let settings = Settings::new(RANKS);
            let mut sharded =
                Sharded::new(communicator, optimizer, &variables(), settings).expect("an optimizer");
            let mut a = vec![1.0_f32; LEN];
            let id = sharded.ids()[0];
            let error =
                sharded.apply(&mut [Update::new(id, &mut a, &[(&gradient).into()])]).expect_err("it fails");
            let moved = a.iter().filter(|&&value| value != 1.0).count();
            let iterations = sharded.optimizer().iterations();
            let next = sharded.apply(&mut []).expect_err("for good");
            assert!(matches!(next, Error::Broken { .. }), "{next}");
            (matches!(error, Error::Aborted { .. }), moved, iterations, aborts.load(Ordering::Relaxed))
        });
        match fails_at {
            6 => {
                after += 1;
                assert!(found.iter().all(|&(aborted, moved, iterations, aborts)| {
                    aborted && moved > 0 && iterations == 1 && aborts == 1
                }));
            }
            _ => {
                before_writing += 1;
                assert_eq!(found, vec![(false, 0, 0, 0); RANKS], "operation {fails_at}");
            }
        }
    }
    assert_eq!((before_writing, after), (4, 1));
}
