//! The ABI gives the bits of the Rust library: recorded runs, trainings at random, at once and in parts, by the bytes of
//! the checkpoints.

#![allow(unsafe_code)]

mod common;

use std::fs;
use std::path::Path;
use std::ptr;

use common::{Optimizer, UPDATE, VARIABLE, address, dtype, ok, options, text, update};
use lion::checkpoint::{Checkpoint, Tensor};
use lion::replay::{self, Gradients, Recording};
use lion::{Config, Dtype, Lion, TensorBuf};
use lion_c::*;
use lion_kernels::{Backend, STATISTICS_BLOCK};
use lion_tests::Rng;
use lion_tests::scenario::Scenario;

/// What the Rust library writes, with the parameters.
fn checkpoint(optimizer: &Lion, parameters: &[TensorBuf], to: &Path) -> Vec<u8> {
    let mut checkpoint = optimizer.checkpoint().expect("no open step");
    for (variable, parameter) in checkpoint.variables.iter_mut().zip(parameters) {
        variable.parameter = Some(Tensor::from(parameter.to_ref()));
    }
    checkpoint.write(to).expect("written");
    fs::read(to).expect("read")
}

/// What the C library writes, with the parameters.
fn saved(optimizer: &Optimizer, parameters: &mut [TensorBuf], to: &Path) -> Vec<u8> {
    ok(optimizer.save(to, &updates(parameters, |_| None)));
    fs::read(to).expect("read")
}

/// An update of each variable, which are numbered in order.
fn updates<'a>(
    parameters: &mut [TensorBuf],
    gradient: impl Fn(usize) -> Option<lion::TensorRef<'a>>,
) -> Vec<LionUpdate> {
    let of = |(index, parameter): (usize, &mut TensorBuf)| {
        update(index as LionVariable, &mut parameter.to_mut(), gradient(index))
    };
    parameters.iter_mut().enumerate().map(of).collect()
}

#[test]
fn a_recorded_run_ends_as_in_replay() {
    let folder = tempfile::tempdir().expect("a folder");
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/cases");
    let mut runs = 0;
    for case in fs::read_dir(cases).expect("a folder") {
        let case = case.expect("a folder").path();
        let config = fs::read_to_string(case.join("config.json")).expect("text");
        let recording = Recording::open(case.join("run.safetensors")).expect("a run");

        let mut rust = Lion::from_config(Config::from_json(&config).expect("a config")).expect("valid");
        let ids = replay::register(&recording, &mut rust).expect("registered");
        let mut parameters = recording.parameters().expect("read");
        replay::run(&recording, &mut rust, &ids, &mut parameters, |_| {}).expect("replayed");
        let expected = checkpoint(&rust, &parameters, &folder.path().join("rust"));

        let c = Optimizer::from_config(&config);
        for (index, (name, shape, dtype)) in recording.variables().enumerate() {
            assert_eq!(c.register(name, shape, dtype, &VARIABLE), index as LionVariable);
        }
        let mut parameters = recording.parameters().expect("read");
        let mut gradients = Gradients::default();
        for call in 0..recording.steps() {
            recording.read_gradients(call, &mut gradients).expect("read");
            ok(c.apply(&updates(&mut parameters, |index| gradients.get(index))));
        }
        assert_eq!(c.metrics().iterations, rust.iterations());
        let found = saved(&c, &mut parameters, &folder.path().join("c"));
        assert!(found == expected, "{}", case.display());
        runs += 1;
    }
    assert!(runs >= 132, "{runs} runs");
}

/// Trainings of the kind that the ABI has, with any options and formats.
fn scenarios(seed: u64, count: usize) -> impl Iterator<Item = Scenario> {
    let mut rng = Rng::with_seed(seed);
    let bytes = std::iter::repeat_with(move || -> Vec<u8> {
        std::iter::repeat_with(|| rng.u8(..)).take(400).collect()
    });
    let plain = |mut scenario: Scenario| {
        for variable in &mut scenario.variables {
            (variable.rule, variable.multiplier) = (None, None);
        }
        scenario
    };
    bytes.filter_map(|bytes| Scenario::from_bytes(&bytes)).map(plain).take(count)
}

/// The C optimizer of a training, with its options as JSON by name, and its variables.
fn of_scenario(scenario: &Scenario, config: &Config) -> Optimizer {
    // The object `lion` has what Keras lacks.
    let c = Optimizer::from_config(&config.to_lion_json().expect("no closure"));
    for (index, variable) in scenario.variables.iter().enumerate() {
        let options = LionVariableOptions {
            exclude_from_weight_decay: variable.excluded_from_weight_decay.into(),
            overwrite_with_gradient: variable.overwritten.into(),
            nearest_rounding: (variable.values.dtype() != Dtype::BF16).into(),
            ..VARIABLE
        };
        let id = c.register(&variable.name, &variable.shape, variable.values.dtype(), &options);
        assert_eq!(id, index as LionVariable);
    }
    c
}

fn in_rust(scenario: &Scenario) -> (Config, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = scenario.config().expect("a config in its ranges");
    let mut rust = scenario.optimizer(config, Backend::best()).expect("a config in its ranges");
    let ids = scenario.register(&mut rust).expect("variables that can be");
    let mut parameters: Vec<_> = scenario.variables.iter().map(|it| it.values.clone()).collect();
    for call in 0..scenario.gradients.len() {
        rust.apply(&mut scenario.updates(call, &ids, &mut parameters)).expect("applied");
    }
    (rust.config().clone(), checkpoint(&rust, &parameters, &folder.path().join("rust")))
}

#[test]
fn any_training_ends_as_in_rust() {
    let folder = tempfile::tempdir().expect("a folder");
    for scenario in scenarios(1, 150) {
        let (config, expected) = in_rust(&scenario);
        let c = of_scenario(&scenario, &config);
        let mut parameters: Vec<_> = scenario.variables.iter().map(|it| it.values.clone()).collect();
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
        let c = of_scenario(&scenario, &config);
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
        let (config, expected) = in_rust(&scenario);
        let c = of_scenario(&scenario, &config);
        let mut parameters: Vec<_> = scenario.variables.iter().map(|it| it.values.clone()).collect();
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
    let mut gradients = Vec::new();
    for (index, gradient) in given.iter().enumerate() {
        let Some(gradient) = gradient.as_ref().map(TensorBuf::to_ref) else { continue };
        gradients.push(LionGradient {
            struct_size: size_of::<LionGradient>(),
            variable: index as LionVariable,
            gradient: address(gradient),
            len: gradient.len(),
            gradient_dtype: dtype(gradient.dtype()),
            reserved: 0,
            range_start: 0,
            range_end: 0,
        });
    }
    let only_overwrites =
        given.iter().zip(&scenario.variables).all(|(it, variable)| it.is_none() || variable.overwritten);
    let begin = LionBegin {
        struct_size: size_of::<LionBegin>(),
        only_overwrites: only_overwrites.into(),
        elsewhere: 0,
    };
    // SAFETY: the gradients live, and the structs have their sizes.
    unsafe {
        for gradient in &gradients {
            ok(lion_measure(c.0, gradient, 1));
        }
        ok(lion_begin(c.0, &raw const begin));
    }
    let mut parts = Vec::new();
    for (index, whole) in
        updates(parameters, |index| given[index].as_ref().map(TensorBuf::to_ref)).into_iter().enumerate()
    {
        let cut = match whole.len {
            0 => 0,
            _ if scenario.variables[index].overwritten => 0,
            len => rng.usize(0..len) / scenario.unit() * scenario.unit(),
        };
        if cut == 0 {
            parts.push(whole);
            continue;
        }
        let sizes = [
            scenario.variables[index].values.dtype().size(),
            given[index].as_ref().map_or(0, |it| it.dtype().size()),
        ];
        for range in [cut..whole.len, 0..cut] {
            parts.push(LionUpdate {
                parameter: whole.parameter.wrapping_byte_add(range.start * sizes[0]),
                gradient: if whole.gradient.is_null() {
                    ptr::null()
                } else {
                    whole.gradient.wrapping_byte_add(range.start * sizes[1])
                },
                len: range.len(),
                range_start: range.start,
                range_end: range.end,
                ..whole
            });
        }
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

/// `lion_step`, whose caller keeps the momentum, and the host's threads.
#[test]
fn a_step_without_an_optimizer_is_that_of_one() {
    let mut rng = Rng::with_seed(4);
    let json = text(r#"{"momentum_dtype": "bf16"}"#);
    let plan = LionPlan {
        struct_size: size_of::<LionPlan>(),
        isa: ptr::null(),
        threads: 2,
        chunk_elements: STATISTICS_BLOCK,
        parallel_threshold: 1,
    };
    for plan in [ptr::null(), &raw const plan] {
        let common = LionOptions { learning_rate: 0.01, weight_decay: 0.1, plan, ..options() };
        let c = Optimizer::new(Some(&LionOptions { json: json.as_ptr(), ..common }));
        let len = 5 * STATISTICS_BLOCK + 7;
        c.register("weights", &[len], lion::Dtype::F32, &VARIABLE);
        let gradients: Vec<Vec<half::f16>> = (0..3).map(|_| lion_tests::ordinary(&mut rng, len)).collect();
        let (mut one, mut other) = (vec![0.5_f32; len], vec![0.5_f32; len]);
        let mut momentum = vec![half::bf16::ZERO; len];
        for gradient in &gradients {
            ok(c.apply(&[update(0, &mut (&mut one).into(), Some(gradient.into()))]));
            let tensors = LionStepTensors {
                struct_size: size_of::<LionStepTensors>(),
                parameter: other.as_mut_ptr().cast(),
                gradient: gradient.as_ptr().cast(),
                momentum: momentum.as_mut_ptr().cast(),
                len,
                parameter_dtype: LION_F32,
                gradient_dtype: LION_F16,
                momentum_dtype: LION_BF16,
                copy_dtype: 0,
                source: ptr::null(),
                copy: ptr::null_mut(),
            };
            // SAFETY: the tensors live, and are separate.
            ok(unsafe { lion_step(&raw const common, &raw const tensors, 1) });
        }
        assert!(one.iter().map(|it| it.to_bits()).eq(other.iter().map(|it| it.to_bits())));
        let folder = tempfile::tempdir().expect("a folder");
        ok(c.save(&folder.path().join("c"), &[]));
        let checkpoint = Checkpoint::read(folder.path().join("c")).expect("a checkpoint");
        let saved = checkpoint.variables[0].momentum.as_ref().expect("momentum").to_ref();
        assert_eq!(saved.as_slice::<half::bf16>(), Some(&momentum[..]));
    }
}

/// A copy in another format, and a source elsewhere.
#[test]
fn out_of_place_with_a_copy() {
    let c = Optimizer::new(Some(&LionOptions { learning_rate: 0.25, ..options() }));
    c.register("weights", &[2], lion::Dtype::F32, &VARIABLE);
    let (source, mut parameter, gradient) = ([1.0_f32, 2.0], [0.0_f32; 2], [1.0_f32, -1.0]);
    let mut copy = [half::bf16::ZERO; 2];
    let update = LionUpdate {
        parameter: parameter.as_mut_ptr().cast(),
        gradient: gradient.as_ptr().cast(),
        len: 2,
        parameter_dtype: LION_F32,
        gradient_dtype: LION_F32,
        source: source.as_ptr().cast(),
        copy: copy.as_mut_ptr().cast(),
        copy_dtype: LION_BF16,
        ..UPDATE
    };
    ok(c.apply(&[update]));
    assert_eq!((parameter, copy.map(half::bf16::to_f32)), ([0.75, 2.25], [0.75, 2.25]));
    // The same memory is the step in place.
    ok(c.apply(&[LionUpdate { source: update.parameter, ..update }]));
    assert_eq!(parameter, [0.5, 2.5]);
}
