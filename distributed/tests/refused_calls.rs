//! Calls that a rank must not make alone: every error is one on all ranks, names the rank and changes nothing.

mod common;

use common::on_ranks;
use common::rank::{LEN, RANKS, Rank};
use lion::{Builder, DynamicLossScale, Lion, Outcome, Schedule};
use lion_distributed::{Communicator, Error, Update};

/// Makes a wrong call on one rank, or on all but one, between two right ones.
fn refused(odd: usize, builder: &Builder, wrong: impl Fn(&mut Rank, bool) -> Error + Sync, expected: &str) {
    let gradient = vec![1.0_f32; LEN];
    let found = on_ranks(RANKS, |communicator| {
        let mut rank = Rank::new(communicator, builder.clone());
        rank.apply(&gradient).expect("applied");
        let before = rank.state();
        let is_odd = rank.rank() == odd;
        let error = wrong(&mut rank, is_odd);
        assert_eq!(rank.state(), before, "after {error}");
        assert_eq!(rank.apply(&gradient).expect("the next call goes on"), Outcome::Updated);
        (is_odd, error.to_string())
    });
    for (is_odd, found) in found {
        let expected = expected.strip_prefix(&format!("rank {odd}: ")).filter(|_| is_odd).unwrap_or(expected);
        assert_eq!(found, expected);
    }
}

#[test]
fn a_wrong_call_on_one_rank() {
    let gradient = &vec![1.0_f32; LEN][..];
    let short = &gradient[1..];
    let plain = Lion::builder();
    for odd in 0..RANKS {
        let length =
            format!("rank {odd}: variable \"a\": the gradient has 9999 elements, and its shape has 10000");
        let wrong =
            |rank: &mut Rank, odd| rank.apply(if odd { short } else { gradient }).expect_err("refused");
        refused(odd, &plain, wrong, &length);

        let none = format!("rank {odd}: no variable of the step has a gradient");
        let wrong = |rank: &mut Rank, odd: bool| {
            let ids = rank.sharded.ids().to_vec();
            let without = Update::without_gradient(ids[0], &mut rank.a);
            if odd {
                rank.sharded.apply(&mut [without]).expect_err("refused")
            } else {
                rank.apply(gradient).expect_err("refused")
            }
        };
        refused(odd, &plain, wrong, &none);

        let leaves = format!(
            "rank {odd}: the number of gradients is 2 for variable \"a\"; expected 1, one for each leaf of a rank"
        );
        let wrong = |rank: &mut Rank, odd: bool| {
            let (ids, two) = (rank.sharded.ids().to_vec(), [gradient.into(), gradient.into()]);
            let given = if odd { &two[..] } else { &two[..1] };
            rank.sharded.apply(&mut [Update::new(ids[0], &mut rank.a, given)]).expect_err("refused")
        };
        refused(odd, &plain, wrong, &leaves);

        let twice = format!("rank {odd}: variable \"b\" is in the step twice");
        let wrong = |rank: &mut Rank, odd: bool| {
            let ids = rank.sharded.ids().to_vec();
            let given = [gradient.into()];
            let mut again = [half::bf16::ONE; 6];
            let mut updates =
                vec![Update::without_gradient(ids[1], &mut rank.b), Update::new(ids[0], &mut rank.a, &given)];
            if odd {
                updates.push(Update::without_gradient(ids[1], &mut again));
            }
            rank.sharded.apply(&mut updates).expect_err("refused")
        };
        refused(odd, &plain, wrong, &twice);

        let missing = format!(
            "rank {odd}: variable \"b\" is not in the step, and its moving average needs it: Update::without_gradient \
             names a variable that has no gradient"
        );
        let wrong = |rank: &mut Rank, odd: bool| {
            let ids = rank.sharded.ids().to_vec();
            let given = [gradient.into()];
            let mut updates = vec![Update::new(ids[0], &mut rank.a, &given)];
            if !odd {
                updates.push(Update::without_gradient(ids[1], &mut rank.b));
            }
            rank.sharded.apply(&mut updates).expect_err("refused")
        };
        refused(odd, &Lion::builder().ema(0.9), wrong, &missing);
    }
}

#[test]
fn ranks_that_go_on_differently() {
    let gradient = &vec![1.0_f32; LEN][..];
    let plain = Lion::builder();
    let halves = vec![half::f16::ONE; LEN];
    for odd in 1..RANKS {
        let dtype = format!("the gradients of rank {odd}: \"a\" in f16; expected \"a\" in f32, as on rank 0");
        let wrong = |rank: &mut Rank, odd: bool| {
            let ids = rank.sharded.ids().to_vec();
            let given = if odd { [(&halves).into()] } else { [gradient.into()] };
            let mut updates =
                [Update::new(ids[0], &mut rank.a, &given), Update::without_gradient(ids[1], &mut rank.b)];
            rank.sharded.apply(&mut updates).expect_err("refused")
        };
        refused(odd, &plain, wrong, &dtype);

        let rate = format!(
            "the hyperparameters of rank {odd}: group 0: StepHyperparameters {{ learning_rate: 0.5, beta_1: 0.9, beta_2: 0.99, \
             weight_decay: None, cautious_decay: false, decay_scale: LearningRate }}; expected group 0: StepHyperparameters {{ learning_rate: 0.001, beta_1: 0.9, beta_2: 0.99, \
             weight_decay: None, cautious_decay: false, decay_scale: LearningRate }}, as on rank 0"
        );
        let wrong = |rank: &mut Rank, odd: bool| {
            if odd {
                rank.sharded.set("learning_rate", 0.5).expect("valid");
            }
            let error = rank.apply(gradient).expect_err("refused");
            rank.sharded.set("learning_rate", 0.001).expect("valid");
            error
        };
        refused(odd, &plain, wrong, &rate);

        let call = format!("the call of rank {odd}: gather_parameters; expected apply, as on rank 0");
        let wrong = |rank: &mut Rank, odd: bool| {
            let ids = rank.sharded.ids().to_vec();
            match odd {
                true => rank
                    .sharded
                    .gather_parameters(&mut [Update::without_gradient(ids[0], &mut rank.a)])
                    .expect_err("refused"),
                false => rank.apply(gradient).expect_err("refused"),
            }
        };
        refused(odd, &plain, wrong, &call);

        let nothing = format!("the gradients of rank {odd}: nothing; expected \"a\" in f32, as on rank 0");
        let wrong = |rank: &mut Rank, odd: bool| match odd {
            true => rank.sharded.apply(&mut []).expect_err("refused"),
            false => rank.apply(gradient).expect_err("refused"),
        };
        refused(odd, &plain, wrong, &nothing);
    }
}

/// A closure that gives another rate on one rank, in a call that all ranks name alike; and one that gives a rate that no
/// step takes.
#[test]
fn schedules_that_are_closures() {
    let gradient = vec![1.0_f32; LEN];
    let found = on_ranks(RANKS, |communicator| {
        let odd = communicator.rank() == 2;
        let schedule = Schedule::from_fn(move |call| match (call, odd) {
            (1, true) => 0.25,
            (2, _) => -1.0,
            _ => 0.5,
        });
        let mut rank = Rank::new(communicator, Lion::builder().learning_rate(schedule));
        rank.apply(&gradient).expect("applied");
        let before = rank.state();
        let differs = rank.apply(&gradient).expect_err("differs").to_string();
        assert_eq!((rank.state(), rank.a[0]), (before, 0.5));
        differs
    });
    for found in found {
        assert!(
            found.starts_with(
                "the hyperparameters of rank 2: group 0: StepHyperparameters { learning_rate: 0.25,"
            ),
            "{found}"
        );
    }
    let found = on_ranks(RANKS, |communicator| {
        let schedule = Schedule::from_fn(|call| if call == 1 { -1.0 } else { 0.5 });
        let mut rank = Rank::new(communicator, Lion::builder().learning_rate(schedule).global_clipnorm(1.0));
        rank.apply(&gradient).expect("applied");
        let before = rank.state();
        let error = rank.apply(&gradient).expect_err("a negative rate").to_string();
        assert_eq!(rank.state(), before);
        error
    });
    assert_eq!(found, vec!["learning_rate of step 1 is -1, and must be in [0, inf)"; RANKS]);
}

/// NaN on one rank only: a dynamic loss scale skips the call on all.
#[test]
fn a_nan_on_one_rank_skips_the_call_on_all() {
    let found = on_ranks(RANKS, |communicator| {
        let builder = Lion::builder().dynamic_loss_scale(DynamicLossScale::default());
        let mut rank = Rank::new(communicator, builder);
        let mut gradient = vec![1.0_f32; LEN];
        if rank.rank() == 1 {
            // In the shard of rank 2.
            gradient[9_000] = f32::NAN;
        }
        let before = (rank.a.clone(), rank.sharded.optimizer().iterations());
        let outcome = rank.apply(&gradient).expect("skipped");
        assert_eq!((rank.a.clone(), rank.sharded.optimizer().iterations()), before);
        (outcome, rank.sharded.optimizer().dynamic_loss_scale())
    });
    assert_eq!(found, vec![(Outcome::Skipped, Some((16_384.0, 0))); RANKS]);
}
