//! `lion-mpi replay` writes the bytes that one process writes.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{alone, run};
use lion::checkpoint::{Checkpoint, Tensor};
use lion::replay::{self, Recording};
use lion::tensor_file::{self, Entry};
use lion::{Builder, Config, Dtype, TensorBuf};
use tempfile::tempdir;

#[test]
fn replay_gives_the_file_of_one_process() {
    let _alone = alone();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/cases");
    let lion_mpi = Path::new(env!("CARGO_BIN_EXE_lion-mpi"));
    let folder = tempdir().expect("a folder");
    let mut replayed = 0;
    for case in fs::read_dir(cases).expect("cases").filter_map(Result::ok).map(|case| case.path()) {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let (config, input) = (text(case.join("config.json")), text(case.join("run.safetensors")));
        let result = |name: &str| text(folder.path().join(name));
        let arguments = |output: &str| {
            ["replay", "--config", &config, "--input", &input, "--output", output].map(str::to_owned)
        };
        let one = arguments(&result("one"));
        let one: Vec<&str> = one.iter().map(String::as_str).collect();
        // What cannot be sharded is refused on any number of ranks.
        if !run(1, lion_mpi, &one).status.success() {
            continue;
        }
        let alone = fs::read(result("one")).expect("written");
        for ranks in [2, 3] {
            let several = arguments(&result("several"));
            let several: Vec<&str> = several.iter().map(String::as_str).collect();
            let output = run(ranks, lion_mpi, &several);
            if !output.status.success() {
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(error.contains("the number of blocks of 4096 elements"), "{error}");
                continue;
            }
            assert!(fs::read(result("several")).expect("written") == alone, "{case:?} on {ranks} ranks");
            replayed += 1;
        }
        if replayed > 6 {
            break;
        }
    }
    assert!(replayed > 3, "only {replayed} runs on several ranks");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2, "no part is left");
}

/// Options of the narrow formats and of decay, as their names and values.
const NARROW: [&[(&str, &str)]; 4] = [
    &[("momentum_dtype", "q8")],
    &[("stochastic_rounding", "7")],
    &[("split_master", "true"), ("momentum_dtype", "f32")],
    &[("cautious_decay", "true"), ("decay_scale", "relative:0.05")],
];

/// The flag of an option: a switch if the value is true.
fn flag((name, value): &(&str, &str)) -> Vec<String> {
    let flag = format!("--{}", name.replace('_', "-"));
    if *value == "true" { vec![flag] } else { vec![flag, (*value).to_owned()] }
}

/// The flags of the narrow formats, and a run that goes on from a checkpoint of each.
#[test]
fn narrow_formats_give_the_file_of_one_process() {
    let _alone = alone();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/cases/everything/config.json");
    let folder = tempdir().expect("a folder");
    for options in NARROW {
        let path = |name: &str| folder.path().join(name);
        // Only bf16 is rounded at random.
        record(&path("run"), options[0].0 != "stochastic_rounding");
        alone_replay(&config, options, &path("run"), None, &path("one"));
        alone_replay(&config, options, &path("run"), Some(&path("one")), &path("two"));
        for ranks in 1..=4 {
            for (state, expected) in [(None, "one"), (Some(path("one")), "two")] {
                // Each format resumes on one number of ranks only, to keep the test short.
                if state.is_some() && ranks != 3 {
                    continue;
                }
                let text = |path: &Path| path.to_string_lossy().into_owned();
                let mut arguments = vec!["replay".into(), "--config".into(), text(&config)];
                arguments.extend([
                    "--input".into(),
                    text(&path("run")),
                    "--output".into(),
                    text(&path("out")),
                ]);
                arguments.extend(state.iter().flat_map(|state| ["--state".into(), text(state)]));
                arguments.extend(options.iter().flat_map(flag));
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let output = run(ranks, Path::new(env!("CARGO_BIN_EXE_lion-mpi")), &arguments);
                assert!(output.status.success(), "{ranks} ranks, {arguments:?}: {output:?}");
                let [found, expected] = ["out", expected].map(|name| fs::read(path(name)).expect("written"));
                assert!(found == expected, "{options:?} on {ranks} ranks, state {state:?}");
            }
        }
    }
}

/// Writes a run of five calls whose shards have borders within variables.
fn record(path: &Path, with_f32: bool) {
    let mut state = 1_u64;
    let mut values = |dtype: Dtype, len: usize| {
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 16_777_216.0 - 0.5
        };
        let values: Vec<f32> = (0..len).map(next).collect();
        let mut made = TensorBuf::zeroed(dtype, len).expect("memory");
        made.to_mut().write_f32(0, &values).expect("as long");
        made
    };
    let last = if with_f32 { Dtype::F32 } else { Dtype::BF16 };
    let mut tensors = Vec::new();
    for (name, shape, dtype) in
        [("a", vec![3, 4099], Dtype::BF16), ("b", vec![7], last), ("c", vec![2, 5000], last)]
    {
        let len = shape.iter().product();
        tensors.push((format!("param/{name}"), shape.clone(), values(dtype, len)));
        for call in (0..5).filter(|call| name != "b" || call % 2 == 0) {
            tensors.push((format!("grad/{call}/{name}"), shape.clone(), values(Dtype::BF16, len)));
        }
    }
    let entries: Vec<_> =
        tensors.iter().map(|(name, shape, values)| Entry { name, shape, values: values.to_ref() }).collect();
    tensor_file::write(path, &entries, &[]).expect("written");
}

/// `lion replay` in this process.
fn alone_replay(config: &Path, options: &[(&str, &str)], run: &Path, state: Option<&Path>, output: &Path) {
    let config = Config::read(config).expect("a config");
    let builder = options.iter().fold(Builder::from(config), |builder, &(name, value)| {
        let value = lion::options::Value::from_json(value).unwrap_or_else(|_| value.into());
        builder.set(name, value)
    });
    let mut optimizer = builder.build().expect("an optimizer");
    let recording = Recording::open(run).expect("a run");
    let ids = replay::register(&recording, &mut optimizer).expect("registered");
    let mut parameters = replay::initial_parameters(&recording, &mut optimizer, &ids).expect("read");
    if let Some(state) = state {
        let checkpoint = Checkpoint::read(state).expect("a checkpoint");
        optimizer.restore(&checkpoint).expect("restored");
        for (to, from) in parameters.iter_mut().zip(checkpoint.variables) {
            let Some(Tensor::Owned(values)) = from.parameter else { panic!("no parameter") };
            *to = values;
        }
    }
    replay::run(&recording, &mut optimizer, &ids, &mut parameters, |_| {}).expect("replayed");
    let mut checkpoint = optimizer.checkpoint().expect("no open step");
    for (variable, parameter) in checkpoint.variables.iter_mut().zip(&parameters) {
        variable.parameter = Some(Tensor::from(parameter.to_ref()));
    }
    checkpoint.write(output).expect("written");
}
