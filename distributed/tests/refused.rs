//! Ranks that begin differently, or with what no rank may have: an error on all of them.

mod common;

use common::on_ranks;
use common::rank::{LEN, RANKS, build, variables};
use lion::{Builder, Constraint, Dtype, Group, Lion, VariableOptions};
use lion_distributed::{Communicator, Settings, Sharded, Variable, Wire};

/// What [`Sharded::new`] says on each rank, if the rank `odd` is given something else than the others.
fn new_on_ranks(
    odd: usize,
    make: impl Fn(bool) -> (Lion, Vec<Variable>, Settings) + Sync,
) -> Vec<Result<(), String>> {
    on_ranks(RANKS, |communicator| {
        let (optimizer, variables, settings) = make(communicator.rank() == odd);
        Sharded::new(communicator, optimizer, &variables, settings)
            .map(drop)
            .map_err(|error| error.to_string())
    })
}

#[test]
fn ranks_that_begin_differently() {
    let base = |_| (build(Lion::builder()), variables(), Settings::new(RANKS));
    assert_eq!(new_on_ranks(9, base), vec![Ok(()); RANKS]);
    type Change = fn(&mut Builder, &mut Vec<Variable>, &mut Settings);
    let cases: [(Change, &str); 9] = [
        (
            |builder, _, _| *builder = builder.clone().learning_rate(0.5),
            "the options of rank 1: \"learning_rate\": 0.5; expected \"learning_rate\": 0.001, as on rank 0",
        ),
        (
            |builder, _, _| *builder = builder.clone().exclude_from_weight_decay("b"),
            "the options of rank 1: ",
        ),
        (
            |_, _, settings| *settings = settings.wire(Wire::Bf16),
            "the settings of rank 1: Bf16 on the wire; expected F32 on the wire, as on rank 0",
        ),
        (
            |_, _, settings| *settings = Settings::new(2 * RANKS),
            "the settings of rank 1: 6 leaves; expected 3 leaves, as on rank 0",
        ),
        (
            |_, _, settings| *settings = settings.bucket_bytes(5),
            "the settings of rank 1: buckets of 5 bytes; expected buckets of 33554432 bytes, as on rank 0",
        ),
        (|_, variables, _| variables[1].dtype = Dtype::F16, "the variables of rank 1: \"b\" [2, 3] f16; "),
        (|_, variables, _| variables[1].shape = vec![3, 2], "the variables of rank 1: \"b\" [3, 2] bf16; "),
        (|_, variables, _| variables[0].name = "c".into(), "the variables of rank 1: \"c\" [10000] f32; "),
        (
            |_, variables, _| {
                variables.pop();
            },
            "the variables of rank 1: nothing; expected \"b\" [2, 3] bf16, ",
        ),
    ];
    for (change, expected) in cases {
        let make = |odd: bool| {
            let (mut builder, mut variables, mut settings) =
                (Lion::builder(), variables(), Settings::new(RANKS));
            if odd {
                change(&mut builder, &mut variables, &mut settings);
            }
            (build(builder), variables, settings)
        };
        for found in new_on_ranks(1, make) {
            let found = found.expect_err(expected);
            assert!(found.starts_with(expected), "{found}");
        }
    }
    let groups = new_on_ranks(2, |odd| {
        let mut optimizer = build(Lion::builder());
        let multiplier = if odd { 0.5 } else { 0.25 };
        optimizer.add_group(Group::new().learning_rate_multiplier(multiplier)).expect("valid");
        (optimizer, variables(), Settings::new(RANKS))
    });
    for found in groups {
        let found = found.expect_err("another group");
        assert!(
            found.starts_with("the groups of rank 2: group 1: StepHyperparameters { learning_rate: 0.0005,"),
            "{found}"
        );
    }
}

#[test]
fn what_no_rank_may_do() {
    let overwrites = VariableOptions { overwrite_with_gradient: true, ..Default::default() };
    let constrained = VariableOptions { constraint: Some(Constraint::unit_norm(0)), ..Default::default() };
    let with =
        |options: &VariableOptions| vec![Variable::new("a", &[LEN], Dtype::F32).options(options.clone())];
    let cases = [
        (variables(), Settings::new(4), "leaves is 4; expected a multiple of the 3 ranks, up to 16777216"),
        (variables(), Settings::new(0), "leaves is 0; expected a multiple of the 3 ranks, up to 16777216"),
        (variables(), Settings::new(3).bucket_bytes(0), "bucket_bytes is 0; expected 1 to 1073741823"),
        (
            vec![Variable::new("a", &[4097], Dtype::F32)],
            Settings::new(3),
            "the number of ranks is 3; expected 1 to 2, the number of blocks of 4096 elements that the variables have",
        ),
        (
            with(&overwrites),
            Settings::new(3),
            r#"variable "a" is overwritten with its gradient, which needs the whole variable; found the range "#,
        ),
        (
            with(&constrained),
            Settings::new(3),
            r#"variable "a" has a constraint, which needs the whole variable; found the range "#,
        ),
        ([variables(), variables()].concat(), Settings::new(3), r#"variable "a" already exists"#),
        (
            vec![Variable::new("a", &[usize::MAX, 2], Dtype::F32)],
            Settings::new(3),
            r#"variable "a": the shape [18446744073709551615, 2] has more elements than memory can hold"#,
        ),
    ];
    for (variables, settings, expected) in cases {
        for found in new_on_ranks(9, |_| (build(Lion::builder()), variables.clone(), settings)) {
            let found = found.expect_err(expected);
            assert!(found.starts_with(expected), "{found}");
        }
        // On one rank alone it is the same error on that one, and one that names it on the others.
        let found = new_on_ranks(1, |odd| match odd {
            true => (build(Lion::builder()), variables.clone(), settings),
            false => (build(Lion::builder()), common::rank::variables(), Settings::new(3)),
        });
        let starts = [format!("rank 1: {expected}"), expected.into(), format!("rank 1: {expected}")];
        for (found, start) in found.into_iter().zip(starts) {
            let found = found.expect_err(expected);
            assert!(found.starts_with(&start), "{found}");
        }
    }
    let used = new_on_ranks(9, |_| {
        let mut optimizer = build(Lion::builder());
        optimizer.register("a", &[1], Dtype::F32).expect("registered");
        (optimizer, variables(), Settings::new(3))
    });
    assert!(
        used.into_iter()
            .all(|found| found
                .is_err_and(|it| it.starts_with("the number of variables of the optimizer is 1")))
    );
}
