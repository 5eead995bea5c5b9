//! Trainings at random end with the bits of the Rust library: at once, in parts, and on shards whose owners exchange
//! statistics.

#![allow(unsafe_code)]

mod common;

use std::ops::Range;
use std::ptr;

use common::{Optimizer, VARIABLE, checkpoint, ok, saved, text, updates};
use lion::{Config, Dtype, Lion, TensorBuf, TensorRef, Update};
use lion_c::*;
use lion_kernels::Backend;
use lion_tests::Rng;
use lion_tests::model::Rule;
use lion_tests::scenario::{Scenario, Variable};

/// Trainings of the kind that the ABI has, with any options and formats: constraints but a program's own, and groups.
fn scenarios(seed: u64, count: usize) -> impl Iterator<Item = Scenario> {
    let mut rng = Rng::with_seed(seed);
    let bytes = std::iter::repeat_with(move || -> Vec<u8> {
        std::iter::repeat_with(|| rng.u8(..)).take(400).collect()
    });
    let plain = |mut scenario: Scenario| {
        for variable in &mut scenario.variables {
            variable.rule = variable.rule.filter(|rule| *rule != Rule::Halved);
        }
        scenario
    };
    bytes.filter_map(|bytes| Scenario::from_bytes(&bytes)).map(plain).take(count)
}

/// The C optimizer of a training, with its options as JSON by name.
fn of_scenario(config: &Config) -> Optimizer {
    // The object `lion` has what Keras lacks.
    Optimizer::from_config(&config.to_lion_json().expect("no closure"))
}

/// Registers a variable, with its group and constraint as JSON: all of it, or a shard.
fn register(c: &Optimizer, variable: &Variable, shard: Option<Range<usize>>) -> LionVariable {
    let mut group = 0;
    if let Some(multiplier) = variable.multiplier {
        let json = text(&format!(r#"{{"learning_rate_multiplier": {multiplier:?}}}"#));
        // SAFETY: a text, and a result that is writable.
        ok(unsafe { lion_add_group(c.0, json.as_ptr(), &raw mut group) });
    }
    let constraint = variable.rule.map(|rule| match rule {
        Rule::NonNegative => text(r#"{"class_name": "NonNeg", "config": {}}"#),
        Rule::MaxNorm(max) => {
            let config = format!(r#"{{"max_value": {max:?}, "axis": null}}"#);
            text(&format!(
                r#"{{"module": "keras.constraints", "class_name": "MaxNorm", "config": {config}}}"#
            ))
        }
        Rule::Halved => panic!("a program's own constraint"),
    });
    let shard = shard.unwrap_or_default();
    let options = LionVariableOptions {
        exclude_from_weight_decay: variable.excluded_from_weight_decay.into(),
        overwrite_with_gradient: variable.overwritten.into(),
        nearest_rounding: (variable.values.dtype() != Dtype::BF16).into(),
        shard_start: shard.start,
        shard_end: shard.end,
        group,
        constraint: constraint.as_ref().map_or(ptr::null(), |text| text.as_ptr()),
        ..VARIABLE
    };
    c.register(&variable.name, &variable.shape, variable.values.dtype(), &options)
}

/// Registers all variables, which are then numbered in order.
fn register_all(c: &Optimizer, scenario: &Scenario) {
    for (index, variable) in scenario.variables.iter().enumerate() {
        assert_eq!(register(c, variable, None), index as LionVariable);
    }
}

/// Whether a variable must be given as a whole.
fn is_whole(variable: &Variable) -> bool {
    variable.overwritten || matches!(variable.rule, Some(Rule::MaxNorm(_)))
}

/// The same training in Rust: the optimizer and the parameters at the end.
fn in_rust(scenario: &Scenario) -> (Lion, Vec<TensorBuf>) {
    let config = scenario.config().expect("a config in its ranges");
    let mut rust = scenario.optimizer(config, Backend::best()).expect("a config in its ranges");
    let ids = scenario.register(&mut rust).expect("variables that can be");
    let mut parameters = initial(scenario);
    for call in 0..scenario.gradients.len() {
        rust.apply(&mut scenario.updates(call, &ids, &mut parameters)).expect("applied");
    }
    (rust, parameters)
}

fn initial(scenario: &Scenario) -> Vec<TensorBuf> {
    scenario.variables.iter().map(|it| it.values.clone()).collect()
}

#[test]
fn any_training_ends_as_in_rust() {
    let folder = tempfile::tempdir().expect("a folder");
    for scenario in scenarios(1, 150) {
        let (rust, parameters) = in_rust(&scenario);
        let expected = checkpoint(&rust, &parameters, &folder.path().join("rust"));
        let c = of_scenario(rust.config());
        register_all(&c, &scenario);
        let mut parameters = initial(&scenario);
        let (file, half) = (folder.path().join("c"), scenario.gradients.len() / 2);
        for call in 0..scenario.gradients.len() {
            let gradient = |index: usize| scenario.gradients[call][index].as_ref().map(TensorBuf::to_ref);
            ok(c.apply(&updates(&mut parameters, gradient)));
            if call == half {
                saved(&c, &mut parameters, &file);
            }
        }
        assert!(saved(&c, &mut parameters, &folder.path().join("end")) == expected, "{scenario:?}");

        // A second one goes on from the middle.
        let c = of_scenario(rust.config());
        register_all(&c, &scenario);
        parameters.iter_mut().for_each(|it| it.to_mut().as_bytes_mut(0).expect("a stream").fill(0));
        ok(c.load(&file, &updates(&mut parameters, |_| None)));
        for call in half + 1..scenario.gradients.len() {
            let gradient = |index: usize| scenario.gradients[call][index].as_ref().map(TensorBuf::to_ref);
            ok(c.apply(&updates(&mut parameters, gradient)));
        }
        assert!(saved(&c, &mut parameters, &file) == expected, "{scenario:?}");
    }
}

#[test]
fn any_training_in_parts_ends_as_in_rust() {
    let mut rng = Rng::with_seed(2);
    let folder = tempfile::tempdir().expect("a folder");
    for scenario in scenarios(3, 150) {
        let (rust, parameters) = in_rust(&scenario);
        let expected = checkpoint(&rust, &parameters, &folder.path().join("rust"));
        let c = of_scenario(rust.config());
        register_all(&c, &scenario);
        let mut parameters = initial(&scenario);
        for call in 0..scenario.gradients.len() {
            step_in_parts(&scenario, call, &c, &mut parameters, &mut rng);
        }
        assert!(saved(&c, &mut parameters, &folder.path().join("c")) == expected, "{scenario:?}");
    }
}

fn step_in_parts(
    scenario: &Scenario,
    call: usize,
    c: &Optimizer,
    parameters: &mut [TensorBuf],
    rng: &mut Rng,
) {
    let given = &scenario.gradients[call];
    let whole = updates(parameters, |index| given[index].as_ref().map(TensorBuf::to_ref));
    let gradients = whole.iter().filter(|it| !it.gradient.is_null()).map(gradient_of);
    let begin = begin_of(scenario, call, false);
    // SAFETY: the gradients live, and the structs have their sizes.
    unsafe {
        for gradient in gradients {
            ok(lion_measure(c.0, &raw const gradient, 1));
        }
        ok(lion_begin(c.0, &raw const begin));
    }
    let mut parts = Vec::new();
    for (index, whole) in whole.into_iter().enumerate() {
        let cut = match whole.len {
            0 => 0,
            _ if is_whole(&scenario.variables[index]) => 0,
            len => rng.usize(0..len) / scenario.unit() * scenario.unit(),
        };
        if cut == 0 {
            parts.push(whole);
            continue;
        }
        parts.push(range_of(&whole, cut..whole.len));
        parts.push(range_of(&whole, 0..cut));
    }
    rng.shuffle(&mut parts);
    let (first, second) = parts.split_at(rng.usize(0..=parts.len()));
    // SAFETY: the tensors live, and each part is of memory of its own.
    unsafe {
        for part in [first, second] {
            ok(lion_part(c.0, part.as_ptr(), part.len()));
        }
        ok(lion_finish(c.0));
    }
}

/// A range of an update's elements.
fn range_of(whole: &LionUpdate, range: Range<usize>) -> LionUpdate {
    let bytes = |dtype: u32| range.start * if dtype == LION_F32 { 4 } else { 2 };
    let mut part = LionUpdate {
        parameter: whole.parameter.wrapping_byte_add(bytes(whole.parameter_dtype)),
        len: range.len(),
        range_start: range.start,
        range_end: range.end,
        ..*whole
    };
    if !whole.gradient.is_null() {
        part.gradient = whole.gradient.wrapping_byte_add(bytes(whole.gradient_dtype));
    }
    part
}

/// The gradient of an update, to be measured.
fn gradient_of(update: &LionUpdate) -> LionGradient {
    LionGradient {
        struct_size: size_of::<LionGradient>(),
        variable: update.variable,
        gradient: update.gradient,
        len: update.len,
        gradient_dtype: update.gradient_dtype,
        reserved: 0,
        range_start: update.range_start,
        range_end: update.range_end,
    }
}

fn begin_of(scenario: &Scenario, call: usize, elsewhere: bool) -> LionBegin {
    let given = scenario.gradients[call].iter().zip(&scenario.variables);
    let only_overwrites = given.into_iter().all(|(it, variable)| it.is_none() || variable.overwritten);
    LionBegin {
        struct_size: size_of::<LionBegin>(),
        only_overwrites: only_overwrites.into(),
        elsewhere: elsewhere.into(),
    }
}

/// Optimizers that hold shards, as those of several processes, and exchange the statistics of their gradients.
#[test]
fn any_training_on_shards_ends_as_in_rust() {
    let mut rng = Rng::with_seed(5);
    for mut scenario in scenarios(6, 150) {
        // What must be given as a whole has no shards.
        for variable in &mut scenario.variables {
            variable.overwritten = false;
            variable.rule = variable.rule.filter(|rule| *rule == Rule::NonNegative);
        }
        let (mut rust, mut expected) = in_rust(&scenario);
        let ranks: Vec<_> = (0..rng.usize(2..4)).map(|_| of_scenario(rust.config())).collect();
        let shards: Vec<Vec<Range<usize>>> =
            scenario.variables.iter().map(|it| cut(it.values.len(), ranks.len(), &mut rng)).collect();
        for (variable, shards) in scenario.variables.iter().zip(&shards) {
            for (rank, shard) in ranks.iter().zip(shards) {
                register(rank, variable, Some(shard.clone()));
            }
        }
        let mut parameters = initial(&scenario);
        for call in 0..scenario.gradients.len() {
            step_on_shards(&scenario, call, &ranks, &shards, &mut parameters);
        }

        // Then each parameter becomes its average, if there are averages.
        let ids: Vec<_> = rust.variables().map(|variable| variable.id).collect();
        let updates = ids.iter().zip(&mut expected);
        let mut updates: Vec<_> =
            updates.map(|(id, parameter)| Update::without_gradient(*id, parameter.to_mut())).collect();
        rust.finalize_variable_values(&mut updates).expect("finalized");
        for (rank, c) in ranks.iter().enumerate() {
            let own = own(&mut parameters, &shards, rank, |_| None);
            // SAFETY: the parameters live.
            ok(unsafe { lion_finalize(c.0, own.as_ptr(), own.len()) });
            assert_eq!(c.metrics().iterations, rust.iterations());
        }
        for (found, expected) in parameters.iter().zip(&expected) {
            let (found, expected) = (found.to_ref(), expected.to_ref());
            assert!(found.as_bytes(0) == expected.as_bytes(0), "{scenario:?}");
        }
    }
}

/// The elements of each rank, cut at blocks.
fn cut(len: usize, ranks: usize, rng: &mut Rng) -> Vec<Range<usize>> {
    let blocks = len.div_ceil(LION_BLOCK);
    let mut cuts: Vec<_> = (1..ranks).map(|_| rng.usize(0..=blocks)).collect();
    cuts.sort_unstable();
    let ends = cuts.iter().copied().chain([blocks]);
    let shard = |(start, end): (usize, usize)| match start == end {
        true => len..len,
        false => start * LION_BLOCK..len.min(end * LION_BLOCK),
    };
    [0].into_iter().chain(cuts.iter().copied()).zip(ends).map(shard).collect()
}

/// The updates of what a rank holds.
fn own<'a>(
    parameters: &mut [TensorBuf],
    shards: &[Vec<Range<usize>>],
    rank: usize,
    gradient: impl Fn(usize) -> Option<TensorRef<'a>>,
) -> Vec<LionUpdate> {
    let whole = updates(parameters, gradient).into_iter();
    let held = whole.zip(shards.iter().map(|shards| &shards[rank]));
    // The first rank has the variables without elements.
    let held = held.filter(|(whole, shard)| if whole.len == 0 { rank == 0 } else { !shard.is_empty() });
    held.map(|(whole, shard)| if whole.len == 0 { whole } else { range_of(&whole, shard.clone()) }).collect()
}

fn step_on_shards(
    scenario: &Scenario,
    call: usize,
    ranks: &[Optimizer],
    shards: &[Vec<Range<usize>>],
    parameters: &mut [TensorBuf],
) {
    let given = &scenario.gradients[call];
    let of_ranks: Vec<_> = (0..ranks.len())
        .map(|rank| own(parameters, shards, rank, |index| given[index].as_ref().map(TensorBuf::to_ref)))
        .collect();
    for (c, own) in ranks.iter().zip(&of_ranks) {
        let gradients: Vec<_> = own.iter().filter(|it| !it.gradient.is_null()).map(gradient_of).collect();
        // SAFETY: the gradients live.
        ok(unsafe { lion_measure(c.0, gradients.as_ptr(), gradients.len()) });
    }
    exchange(scenario, ranks);
    let begin = begin_of(scenario, call, true);
    for (c, own) in ranks.iter().zip(&of_ranks) {
        // SAFETY: the tensors live, and each part is of memory of its own.
        unsafe {
            ok(lion_begin(c.0, &raw const begin));
            ok(lion_part(c.0, own.as_ptr(), own.len()));
            ok(lion_finish(c.0));
        }
    }
    let [first, others @ ..] = ranks else { panic!("no ranks") };
    for other in others {
        let (one, other) = (first.metrics(), other.metrics());
        let bits = |metrics: &LionMetrics| (metrics.gradient_norm.to_bits(), metrics.clipped_norm.to_bits());
        assert_eq!(
            (one.outcome, one.non_finite, bits(&one)),
            (other.outcome, other.non_finite, bits(&other))
        );
    }
}

/// Gives each rank the blocks that the others have measured.
fn exchange(scenario: &Scenario, ranks: &[Optimizer]) {
    const NONE: LionBlock = LionBlock { sum_of_squares: 0.0, non_finite: 0, max_abs: 0.0, measured: 0 };
    for (index, variable) in scenario.variables.iter().enumerate() {
        let mut own = vec![vec![NONE; variable.values.len().div_ceil(LION_BLOCK)]; ranks.len()];
        for (c, blocks) in ranks.iter().zip(&mut own) {
            // SAFETY: there is memory for all blocks.
            ok(unsafe { lion_statistics(c.0, index as u64, 0, blocks.as_mut_ptr(), blocks.len()) });
        }
        for (rank, c) in ranks.iter().enumerate() {
            for (_, blocks) in own.iter().enumerate().filter(|(other, _)| *other != rank) {
                // SAFETY: the blocks live.
                ok(unsafe { lion_add_statistics(c.0, index as u64, 0, blocks.as_ptr(), blocks.len()) });
            }
        }
    }
}
