//! The ABI gives the bits of the Rust library: recorded runs, steps without an optimizer, copies.

#![allow(unsafe_code)]

mod common;

use std::fs;
use std::path::Path;
use std::ptr;

use common::{Optimizer, UPDATE, VARIABLE, checkpoint, ok, options, saved, text, update, updates};
use lion::checkpoint::Checkpoint;
use lion::replay::{self, Gradients, Recording};
use lion::{Config, Lion};
use lion_c::*;
use lion_kernels::STATISTICS_BLOCK;
use lion_tests::Rng;

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
