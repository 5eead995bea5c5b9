//! `lion replay` on Keras's golden runs: in one go, and stopped and resumed after every step.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lion::checkpoint::{Checkpoint, SavedVariable, Tensor};
use lion::tensor_file::{self, Entry, TensorFile};
use lion::{Backend, TensorBuf};
use tempfile::tempdir;

struct Case {
    path: PathBuf,
    flags: Vec<String>,
    exact: bool,
}

/// Returns the cases that the command has flags for.
fn cases() -> Vec<Case> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/cases");
    let case = |path: PathBuf| {
        let text = fs::read_to_string(path.join("case.json")).expect("a case");
        let case: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let flags = case["flags"].as_array().expect("a list").iter();
        let flags = flags.map(|flag| flag.as_str().expect("a string").to_owned()).collect();
        case["cli"].as_bool().expect("a bool").then(|| Case { path, flags, exact: case["exact"] == true })
    };
    let found: Vec<_> = fs::read_dir(cases)
        .expect("listed")
        .filter_map(|entry| case(entry.expect("an entry").path()))
        .collect();
    assert!(found.len() > 50);
    found
}

fn replay(case: &Case, input: &Path, output: &Path, more: &[&str], finalize: bool) {
    let done = Command::new(env!("CARGO_BIN_EXE_lion"))
        .arg("replay")
        .arg("--config")
        .arg(case.path.join("config.json"))
        .arg("--input")
        .arg(input)
        .arg("--output")
        .arg(output)
        .args(more)
        .args(case.flags.iter().filter(|flag| finalize || *flag != "--finalize"))
        .env_remove("LION_ISA")
        .output()
        .expect("it runs");
    // In some cases the loss scale ends at 0 or infinity, which causes a warning.
    let said = String::from_utf8_lossy(&done.stderr);
    let expected = said.lines().all(|line| line.starts_with("lion: warning: the dynamic loss scale is "));
    assert!(done.status.success() && done.stdout.is_empty() && expected, "{}: {done:?}", case.path.display());
}

fn single<'a>(tensor: &'a Option<Tensor<'_>>) -> Option<&'a [f32]> {
    tensor.as_ref().map(|tensor| {
        let tensor = tensor.to_ref();
        tensor.as_slice().unwrap_or_else(|| panic!("{tensor:?} is not f32"))
    })
}

/// Returns whether two numbers have the same bits, or both are NaN. If the case has a norm or a schedule (not `exact`), they
/// may differ by 8 units in the last place or 1e-6.
fn same(ours: f32, theirs: f32, exact: bool) -> bool {
    let order =
        |x: f32| if x.is_sign_negative() { -i64::from(x.abs().to_bits()) } else { x.to_bits().into() };
    let close = (order(ours) - order(theirs)).abs() <= 8 || (ours - theirs).abs() <= 1e-6;
    ours.is_nan() && theirs.is_nan() || ours.to_bits() == theirs.to_bits() || !exact && close
}

#[test]
fn every_case_is_as_keras_has_it() {
    let folder = tempdir().expect("a folder");
    let output = folder.path().join("result.safetensors");
    for case in cases() {
        let name = case.path.display();
        replay(&case, &case.path.join("run.safetensors"), &output, &[], true);
        let ours = Checkpoint::read(&output).expect("ours");
        let theirs = Checkpoint::read(case.path.join("result.safetensors")).expect("theirs");
        assert_eq!((ours.iterations, ours.dynamic), (theirs.iterations, theirs.dynamic), "{name}");
        assert_eq!(ours.variables.len(), theirs.variables.len(), "{name}");
        for (ours, theirs) in ours.variables.iter().zip(&theirs.variables) {
            assert_eq!((&ours.name, &ours.shape), (&theirs.name, &theirs.shape), "{name}");
            let sections = |it: &SavedVariable<'_>| {
                [&it.parameter, &it.momentum, &it.ema, &it.accumulator]
                    .map(|it| single(it).map(<[f32]>::to_vec))
            };
            for (section, (ours, theirs)) in sections(ours).into_iter().zip(sections(theirs)).enumerate() {
                let (Some(ours), Some(theirs)) = (&ours, &theirs) else {
                    assert_eq!(ours.is_some(), theirs.is_some(), "{name}: section {section}");
                    continue;
                };
                let differ =
                    ours.iter().zip(theirs).find(|&(&ours, &theirs)| !same(ours, theirs, case.exact));
                assert_eq!(differ, None, "{name}: section {section}");
            }
        }
    }
}

/// Returns a file's bytes with all NaNs replaced by one: sign and payload of a NaN may differ. All tensors are f32.
fn without_payloads(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).expect("bytes");
    let (header, rest) = bytes.split_first_chunk_mut::<8>().expect("a header");
    let (_, elements) = rest.split_at_mut(u64::from_le_bytes(*header) as usize);
    for element in elements.as_chunks_mut::<4>().0 {
        if f32::from_le_bytes(*element).is_nan() {
            *element = f32::NAN.to_le_bytes();
        }
    }
    bytes
}

#[test]
fn one_file_on_every_backend_thread_count_and_chunk() {
    let folder = tempdir().expect("a folder");
    let [first, other] = ["first", "other"].map(|name| folder.path().join(name));
    for case in cases() {
        let run = case.path.join("run.safetensors");
        replay(&case, &run, &first, &[], true);
        for backend in Backend::available() {
            for (threads, chunk) in [("1", "1"), ("2", "4096"), ("2", "1000000")] {
                let plan = ["--isa", backend.name(), "--threads", threads, "--chunk", chunk];
                replay(&case, &run, &other, &plan, true);
                let (first, other) = (without_payloads(&first), without_payloads(&other));
                assert!(first == other, "{}, {plan:?}", case.path.display());
            }
        }
    }
}

/// Writes the steps from `from` to `to` as a run.
fn part(run: &TensorFile, from: usize, to: usize, path: &Path) {
    let mut tensors: Vec<(String, Vec<usize>, TensorBuf)> = Vec::new();
    for tensor in run.tensors() {
        let name = match tensor.name().strip_prefix("grad/").and_then(|rest| rest.split_once('/')) {
            None => tensor.name().to_owned(),
            Some((step, name)) => {
                let step: usize = step.parse().expect("a step");
                if !(from..to).contains(&step) {
                    continue;
                }
                format!("grad/{}/{name}", step - from)
            }
        };
        tensors.push((name, tensor.shape().to_vec(), run.read_values(tensor).expect("read")));
    }
    let entries: Vec<_> =
        tensors.iter().map(|(name, shape, values)| Entry { name, shape, values: values.to_ref() }).collect();
    tensor_file::write(path, &entries, &[]).expect("written");
}

#[test]
fn stopped_and_resumed_is_the_same_file() {
    let folder = tempdir().expect("a folder");
    let [whole, state, rest] = ["whole", "state", "part"].map(|name| folder.path().join(name));
    for case in cases() {
        let run = case.path.join("run.safetensors");
        replay(&case, &run, &whole, &[], true);
        let calls = lion::replay::Recording::open(&run).expect("valid").steps();
        let run = TensorFile::open(&run).expect("valid");
        for at in [1, calls / 2] {
            part(&run, 0, at, &rest);
            replay(&case, &rest, &state, &[], false);
            part(&run, at, calls, &rest);
            let path = state.to_string_lossy().into_owned();
            replay(&case, &rest, &state, &["--state", &path], true);
            assert_eq!(
                fs::read(&state).expect("bytes"),
                fs::read(&whole).expect("bytes"),
                "{}, stopped after {at}",
                case.path.display()
            );
        }
    }
}
