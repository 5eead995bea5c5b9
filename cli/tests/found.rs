//! `lion replay` with configs found in the wild is bit-identical to the equivalent plain config.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lion::tensor_file::{self, Entry, TensorFile};
use tempfile::tempdir;

fn tests(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests").join(path)
}

fn command(config: &Path, input: &Path, output: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lion"));
    command.args(["replay", "--config"]).arg(config).arg("--input").arg(input).arg("--output").arg(output);
    command.env_remove("LION_ISA");
    command
}

fn replay(config: &Path, output: &Path) -> Output {
    command(config, &tests("golden/cases/plain/run.safetensors"), output).output().expect("it runs")
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// Each file, the equivalent plain config, and the expected warnings of the command.
#[test]
fn the_bits_of_the_plain_config() {
    const RATE: &str = r#""learning_rate": 0.002, "weight_decay": 0.01"#;
    let cosine = |rate: &str| {
        format!(
            r#""weight_decay": 0.01, "learning_rate": {{"class_name": "CosineDecay",
            "config": {{"initial_learning_rate": {rate}, "decay_steps": 100}}}}"#
        )
    };
    let steps = r#""weight_decay": 0.01, "learning_rate": {"class_name": "PiecewiseConstantDecay",
        "config": {"boundaries": [2, 5], "values": [0.003, 0.002, 0.001]}}"#;
    let dynamic = format!(
        r#""inner_optimizer": {{"class_name": "Lion", "config": {{{RATE}}}}}, "initial_scale": 32768"#
    );
    let within = "the optimizer is that of compile_config.optimizer";
    let folder = tempdir().expect("a folder");
    let [config, expected, output] =
        ["config.json", "expected", "output"].map(|name| folder.path().join(name));
    for (name, plain, notes) in [
        ("keras3/model.keras", RATE, &["config.json: the optimizer is that of compile_config.optimizer"][..]),
        ("keras3/deflated.keras", RATE, &["config.json: the optimizer is that of compile_config.optimizer"]),
        ("keras3/compile_config.json", RATE, &["the optimizer is that of optimizer"]),
        ("keras3/training_config.json", RATE, &["the optimizer is that of optimizer_config"]),
        (
            "keras3/mixed.keras",
            &dynamic,
            &[
                "config.json: the optimizer is that of compile_config.optimizer",
                "config.json: the model's policy is mixed_float16: a LossScaleOptimizer is around the optimizer, as in \
                 Keras",
            ],
        ),
        ("keras2/get_config.json", RATE, &[]),
        ("keras2/serialized.json", RATE, &[]),
        ("keras2/loss_scale_fixed.json", &format!("{RATE}, \"loss_scale_factor\": 1024"), &[]),
        ("keras2/loss_scale_dynamic.json", &dynamic, &[]),
        ("keras2/model.keras", RATE, &["config.json: the optimizer is that of compile_config.optimizer"]),
        ("keras2/training_config.json", RATE, &["the optimizer is that of optimizer_config"]),
        ("keras2/tensors.json", &cosine("0.002"), &["the optimizer is that of optimizer"]),
        ("keras2/tensor_lists.json", steps, &["the optimizer is that of optimizer"]),
        ("reports/keras2-config.json", RATE, &[]),
        ("reports/keras2-custom.json", RATE, &[]),
        ("reports/tf-keras-module.json", RATE, &[]),
        ("reports/keras2-loss-scale-v3-fixed.json", &format!("{RATE}, \"loss_scale_factor\": 1024"), &[]),
        ("reports/model-config.json", RATE, &[within]),
        ("reports/compile-config.json", RATE, &["the optimizer is that of optimizer"]),
        ("reports/training-config.json", RATE, &["the optimizer is that of optimizer_config"]),
        ("reports/tensor-values.json", &cosine("0.001"), &[]),
        ("reports/numpy-boundaries.json", steps, &[]),
        ("reports/weight-decay-false.json", r#""learning_rate": 0.002"#, &[]),
        ("reports/byte-order-mark.json", RATE, &[]),
    ] {
        fs::write(&config, format!("{{{plain}}}")).expect("written");
        let done = replay(&config, &expected);
        assert!(done.status.success() && done.stderr.is_empty(), "{name}: {done:?}");
        let path = tests("found").join(name);
        let done = replay(&path, &output);
        assert!(done.status.success(), "{name}: {done:?}");
        let notes: String =
            notes.iter().map(|note| format!("lion: warning: {}: {note}\n", path.display())).collect();
        assert_eq!(said(&done), notes);
        let [expected, output] = [&expected, &output].map(|path| tensors(path));
        assert!(expected == output, "{name}");
    }
}

/// Returns the names and bytes of a result's tensors, without the metadata: the configs in it have other names.
fn tensors(path: &Path) -> Vec<(String, String)> {
    let file = TensorFile::open(path).expect("a result");
    let text =
        |tensor| format!("{:?}", lion_tests::tensor_bits(file.read_values(tensor).expect("read").to_ref()));
    file.tensors().iter().map(|tensor| (tensor.name().to_owned(), text(tensor))).collect()
}

/// Splits a run, as the error about too many tensors in a header advises.
#[test]
fn a_run_in_two_files_has_the_bits_of_one() {
    let folder = tempdir().expect("a folder");
    let [config, whole, state] = ["config.json", "whole", "state"].map(|name| folder.path().join(name));
    fs::write(&config, r#"{"learning_rate": 0.002, "weight_decay": 0.01}"#).expect("written");
    assert!(replay(&config, &whole).status.success());
    let run = TensorFile::open(tests("golden/cases/plain/run.safetensors")).expect("a run");
    let step =
        |name: &str| Some(name.strip_prefix("grad/")?.split_once('/')?.0.parse::<usize>().expect("a step"));
    let middle = run.tensors().iter().filter_map(|tensor| step(tensor.name())).max().expect("steps") / 2;
    for part in 0..2 {
        let own = run.tensors().iter().filter_map(|tensor| match step(tensor.name()) {
            None => Some((tensor.name().to_owned(), tensor)),
            Some(step) if (step > middle) == (part == 1) => {
                let at = if part == 1 { step - middle - 1 } else { step };
                let name = tensor.name().splitn(3, '/').nth(2).expect("a name");
                Some((format!("grad/{at}/{name}"), tensor))
            }
            Some(_) => None,
        });
        let own: Vec<_> =
            own.map(|(name, tensor)| (name, tensor, run.read_values(tensor).expect("read"))).collect();
        let entries: Vec<_> = own
            .iter()
            .map(|(name, tensor, values)| Entry { name, shape: tensor.shape(), values: values.to_ref() })
            .collect();
        let input = folder.path().join("part");
        tensor_file::write(&input, &entries, &[]).expect("written");
        let mut command = command(&config, &input, &state);
        if part == 1 {
            command.arg("--state").arg(&state);
        }
        let done = command.output().expect("it runs");
        assert!(done.status.success(), "{done:?}");
    }
    assert!(tensors(&whole) == tensors(&state));
}

#[test]
fn what_is_no_config_is_named_in_one_line() {
    let folder = tempdir().expect("a folder");
    let output = folder.path().join("output");
    for (name, expected) in [
        ("reports/custom-schedule.json", "learning_rate is the class \"my_pkg>WarmUp\""),
        ("reports/git-lfs.safetensors", "is a git-lfs pointer; expected Keras's JSON or a .keras file"),
        ("keras3/model.h5", "is an HDF5 file; expected Keras's JSON or a .keras file"),
        ("keras3/not_compiled.keras", "config.json: compile_config holds no optimizer: "),
    ] {
        let path = tests("found").join(name);
        let done = replay(&path, &output);
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        let start = format!("lion: {}: {expected}", path.display());
        assert!(said(&done).starts_with(&start) && said(&done).lines().count() == 1, "{}", said(&done));
        assert!(!output.exists());
    }
}
