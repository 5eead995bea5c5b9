//! Steps in parts: any split into parts, ranges and shards gives the result of one whole step. Also the errors.

use lion::{
    BeginOptions, Constraint, Dtype, Error, Gradient, Lion, Outcome, Update, VariableId, VariableOptions,
};
use lion_kernels::Backend;
use lion_tests::parts::agrees_in_parts;
use lion_tests::scenario::Scenario;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn any_cut_ends_as_one_call(bytes in prop::collection::vec(any::<u8>(), 0..400), seed: u64) {
        if let Some(scenario) = Scenario::from_bytes(&bytes) {
            for backend in Backend::available() {
                agrees_in_parts(&scenario, backend, seed);
            }
        }
    }
}

/// Two variables of 10,000 and 3 elements.
fn optimizer(change: impl FnOnce(lion::Builder) -> lion::Builder) -> (Lion, [VariableId; 2]) {
    let mut optimizer = change(Lion::builder()).build().expect("valid");
    let ids = [("a", 10_000), ("b", 3)]
        .map(|(name, len)| optimizer.register(name, &[len], Dtype::F32).expect("registered"));
    (optimizer, ids)
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>, expected: &str) {
    let error = result.expect_err("refused").to_string();
    assert_eq!(error, expected);
}

#[test]
fn a_range_must_be_within_its_variable_and_new() {
    let (mut optimizer, [a, b]) = optimizer(|it| it);
    let step = optimizer.begin(BeginOptions::default()).expect("begun");
    let (mut parameter, gradient) = (vec![0.0_f32; 10_000], vec![1.0_f32; 10_000]);
    let mut part = |id, range: std::ops::Range<usize>| {
        let len = range.len();
        optimizer.part(step, &mut [Update::new(id, &mut parameter[..len], &gradient[..len]).range(range)])
    };
    refused(part(a, 9_999..10_001), r#"variable "a": the range 9999..10001 must be within 0..10000"#);
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = part(a, 5..4);
    refused(reversed, r#"variable "a": the range 5..4 must be within 0..10000"#);
    part(a, 100..200).expect("within");
    refused(
        part(a, 199..300),
        r#"variable "a": the range 199..300 overlaps 100..200, which this step has already"#,
    );
    part(a, 200..300).expect("next to it");
    part(b, 0..3).expect("another variable");
    refused(part(b, 0..3), r#"variable "b": the range 0..3 overlaps 0..3, which this step has already"#);
    assert_eq!(parameter.iter().filter(|&&value| value != 0.0).count(), 100);
}

#[test]
fn two_ranges_of_one_part_must_not_overlap() {
    let (mut optimizer, [a, _]) = optimizer(|it| it);
    let step = optimizer.begin(BeginOptions::default()).expect("begun");
    let (mut one, mut other, gradient) = ([0.0_f32; 10], [0.0_f32; 10], [1.0_f32; 10]);
    let updates = &mut [
        Update::new(a, &mut one[..], &gradient[..]).range(15..25),
        Update::new(a, &mut other[..], &gradient[..]).range(10..20),
    ];
    refused(
        optimizer.part(step, updates),
        r#"variable "a": the range 15..25 overlaps 15..20, which this step has already"#,
    );
    assert_eq!((one, other), ([0.0; 10], [0.0; 10]));
}

#[test]
fn an_open_step_is_in_the_way_until_it_is_abandoned() {
    let (mut optimizer, [a, b]) = optimizer(|it| it);
    let (mut parameter, gradient) = ([1.0_f32; 3], [1.0_f32; 3]);
    optimizer.apply(&mut [Update::new(b, &mut parameter, &gradient)]).expect("applied");
    let step = optimizer.begin(BeginOptions::default()).expect("begun");
    optimizer.part(step, &mut [Update::new(b, &mut parameter, &gradient)]).expect("done");
    let open = "step 1 is open: finish or abandon it first";
    refused(optimizer.apply(&mut [Update::new(b, &mut parameter, &gradient)]), open);
    refused(optimizer.begin(BeginOptions::default()), open);
    refused(optimizer.checkpoint(), open);
    refused(optimizer.finalize_variable_values(&mut []), open);
    refused(optimizer.register("c", &[1], Dtype::F32), open);
    refused(optimizer.restore(&lion::checkpoint::Checkpoint::default()), open);
    assert_eq!(optimizer.iterations(), 1);

    let abandoned = optimizer.abandon().expect("it was open");
    assert_eq!((abandoned.step, abandoned.written), (1, vec![(b, 0..3)]));
    assert_eq!(optimizer.abandon(), None);
    let gone = "this step is not open: it was finished or abandoned, or is of another optimizer";
    refused(optimizer.part(step, &mut [Update::new(b, &mut parameter, &gradient)]), gone);
    refused(optimizer.finish(step), gone);

    let next = optimizer.begin(BeginOptions::default()).expect("begun");
    refused(optimizer.finish(step), gone);
    assert_eq!(optimizer.finish(next).expect("nothing was given").outcome, Outcome::Empty);
    refused(optimizer.finish(next), gone);
    assert_eq!(optimizer.iterations(), 1);
    optimizer
        .apply(&mut [Update::new(a, &mut vec![0.0_f32; 10_000][..], &vec![0.0_f32; 10_000][..])])
        .expect("free");
}

#[test]
fn statistics_must_be_of_the_step_and_of_whole_blocks() {
    let (mut optimizer, [a, b]) = optimizer(|it| it.global_clipnorm(1.0));
    let gradient = vec![1.0_f32; 10_000];
    refused(
        optimizer.begin(BeginOptions::default()),
        "the statistics are missing, and must be given to begin, for a clip by norm or a dynamic loss scale",
    );
    let mut statistics = optimizer.statistics().expect("memory");
    let mut measure = |range: std::ops::Range<usize>| {
        let gradient = Gradient::new(a, &gradient[..range.len()]).range(range);
        optimizer.measure(&mut statistics, &mut [gradient])
    };
    let cut = |range: &str| {
        format!(
            r#"variable "a": the range {range} cuts a block of its statistics; expected multiples of 4096 or the end"#
        )
    };
    refused(measure(0..100), &cut("0..100"));
    refused(measure(1..4096), &cut("1..4096"));
    measure(4096..8192).expect("a block");
    refused(
        measure(0..8192),
        r#"variable "a": the range 0..8192 overlaps 4096..8192, which this step has already"#,
    );
    measure(8192..10_000).expect("the last block");

    let step =
        optimizer.begin(BeginOptions { statistics: Some(&statistics), ..Default::default() }).expect("begun");
    let mut parameter = vec![0.0_f32; 10_000];
    let unmeasured = r#"variable "a" has a gradient, and the step was begun without its statistics"#;
    let update = Update::new(a, &mut parameter[..10], &gradient[..10]).range(0..10);
    refused(optimizer.part(step, &mut [update]), unmeasured);
    let update = Update::new(a, &mut parameter[4096..], &gradient[4096..]).range(4096..10_000);
    optimizer.part(step, &mut [update]).expect("measured");
    assert!(optimizer.finish(step).expect("finished").clipped.expect("known"));

    let stale = BeginOptions { statistics: Some(&statistics), ..Default::default() };
    refused(
        optimizer.begin(stale),
        "the statistics are for step 0 and 2 variables, and must be for step 1 and 2 variables",
    );
    let blocks = statistics.blocks(a).expect("registered").to_vec();
    let mut next = optimizer.statistics().expect("memory");
    refused(
        next.set_blocks(a, 1, &blocks),
        "the statistics are blocks 1..4 of variable id 0, and must be within its 3 blocks",
    );
    next.set_blocks(a, 0, &blocks).expect("as many");
    refused(
        next.set_blocks(a, 2, &blocks[2..]),
        "the statistics are blocks 2..3 of variable id 0, some of them measured before, and must be given once in a step",
    );
    assert_eq!(next.blocks(b).map(<[_]>::len), Some(1));
    refused(
        next.merge(&statistics),
        "the statistics are for step 0 and 4 blocks, and must be for step 1 and 4 blocks",
    );
}

#[test]
fn what_needs_a_whole_variable_takes_no_range() {
    let mut optimizer = Lion::builder().build().expect("valid");
    let mut register = |name: &str, options| optimizer.register_with(name, &[8], Dtype::F32, options);
    let constraint = Some(Constraint::unit_norm(0));
    let overwrites = VariableOptions { overwrite_with_gradient: true, ..Default::default() };
    let shard = Some(0..4);
    refused(
        register("a", VariableOptions { shard: shard.clone(), ..overwrites.clone() }),
        r#"variable "a" is overwritten with its gradient, which needs the whole variable; found the range 0..4"#,
    );
    refused(
        register(
            "a",
            VariableOptions { shard: shard.clone(), constraint: constraint.clone(), ..Default::default() },
        ),
        r#"variable "a" has a constraint, which needs the whole variable; found the range 0..4"#,
    );
    refused(
        register("a", VariableOptions { shard: Some(4..9), ..Default::default() }),
        r#"variable "a": the range 4..9 must be within 0..8"#,
    );
    let whole = register("whole", VariableOptions { constraint, ..Default::default() }).expect("registered");
    let non_negative =
        VariableOptions { shard, constraint: Some(Constraint::non_negative()), ..Default::default() };
    let part = register("part", non_negative).expect("registered");

    let (mut parameter, gradient) = ([1.0_f32; 4], [1.0_f32; 4]);
    let mut apply =
        |id, range| optimizer.apply(&mut [Update::new(id, &mut parameter, &gradient).range(range)]).map(drop);
    refused(
        apply(whole, 0..4),
        r#"variable "whole" has a constraint, which needs the whole variable; found the range 0..4"#,
    );
    refused(apply(part, 2..6), r#"variable "part": the range 2..6 must be within 0..4"#);
    apply(part, 0..4).expect("what it holds");
    let mut all = [1.0_f32; 8];
    refused(
        optimizer.apply(&mut [Update::new(part, &mut all, &[1.0_f32; 8])]),
        r#"variable "part": the range 0..8 must be within 0..4"#,
    );
}

/// The norm is along the variable's own axes, also where its elements are given as a range.
#[test]
fn a_range_that_is_the_variable_has_its_shape() {
    let constrained = |ranged: bool| {
        let mut optimizer = Lion::builder().learning_rate(0.5).build().expect("valid");
        let options = VariableOptions { constraint: Some(Constraint::unit_norm(1)), ..Default::default() };
        let id = optimizer.register_with("a", &[2, 3], Dtype::F32, options).expect("registered");
        let mut parameter = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let update = Update::new(id, &mut parameter, &[1.0_f32; 6]);
        optimizer.apply(&mut [if ranged { update.range(0..6) } else { update }]).expect("applied");
        parameter.map(f32::to_bits)
    };
    assert_eq!(constrained(true), constrained(false));
}

#[test]
fn an_average_needs_every_element() {
    let (mut optimizer, [a, b]) = optimizer(|it| it.ema(0.9));
    let (mut parameter, gradient) = (vec![0.0_f32; 10_000], vec![1.0_f32; 10_000]);
    let step = optimizer.begin(BeginOptions::default()).expect("begun");
    let update = Update::new(a, &mut parameter[..9_000], &gradient[..9_000]).range(0..9_000);
    optimizer.part(step, &mut [update]).expect("a part");
    let missing = "are not in the step, and their moving average needs them: Update::without_gradient gives those that \
                   have no gradient";
    refused(optimizer.finish(step), &format!(r#"variable "a": elements 9000..10000 {missing}"#));
    let update = Update::without_gradient(a, &mut parameter[9_000..]).range(9_000..10_000);
    optimizer.part(step, &mut [update]).expect("the rest");
    assert!(matches!(optimizer.finish(step), Err(Error::MissingVariable { name }) if name == "b"));
    optimizer.part(step, &mut [Update::without_gradient(b, &mut [0.0_f32; 3])]).expect("the last");
    assert_eq!(optimizer.finish(step).expect("complete").outcome, Outcome::Updated);
}

#[test]
fn a_checkpoint_of_a_shard_is_taken_by_shards_within_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shard.safetensors");
    let shard = |range| {
        let mut optimizer = Lion::builder().build().expect("valid");
        let options = VariableOptions { shard: range, ..Default::default() };
        let id = optimizer.register_with("w", &[2, 5], Dtype::F32, options).expect("registered");
        (optimizer, id)
    };
    let (mut first, id) = shard(Some(2..8));
    let (mut parameter, gradient) = ([0.0_f32; 6], [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
    first.apply(&mut [Update::new(id, &mut parameter, &gradient).range(2..8)]).expect("applied");
    first.checkpoint().expect("no open step").write(&path).expect("written");
    let read = lion::checkpoint::Checkpoint::read(&path).expect("read");
    assert_eq!((read.variables[0].shape.as_slice(), &read.variables[0].shard), (&[2, 5][..], &Some(2..8)));

    let (mut within, id) = shard(Some(3..5));
    within.restore(&read).expect("within");
    let momentum = |optimizer: &Lion, id| optimizer.momentum(id).expect("it has one").to_f32();
    assert_eq!(momentum(&within, id), momentum(&first, id)[1..3]);
    for (range, has) in [(None, "0..10"), (Some(7..9), "7..9")] {
        let (mut beyond, _) = shard(range);
        let expected = format!("momentum/w: has the elements 2..8, and the optimizer has {has}");
        refused(beyond.restore(&read), &expected);
    }
}
