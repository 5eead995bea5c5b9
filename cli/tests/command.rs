//! The command as a process: exit status, stdout and stderr.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lion_tests::safetensors::file;
use tempfile::{TempDir, tempdir};

fn lion(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lion"));
    command.args(arguments).env_remove("LION_ISA").output().expect("it runs")
}

fn golden(case: &str, file: &str) -> String {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/cases");
    cases.join(case).join(file).to_string_lossy().into_owned()
}

struct Run {
    folder: TempDir,
    config: String,
    input: String,
}

impl Run {
    fn new(case: &str) -> Self {
        Run {
            folder: tempdir().expect("a folder"),
            config: golden(case, "config.json"),
            input: golden(case, "run.safetensors"),
        }
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("result.safetensors")
    }

    fn with(&self, more: &[&str]) -> Output {
        let output = self.output().to_string_lossy().into_owned();
        let mut arguments =
            vec!["replay", "--config", &self.config, "--input", &self.input, "--output", &output];
        arguments.extend(more);
        lion(&arguments)
    }

    /// Asserts that the input is bad: status 1, no file, and one line that starts with `place` and contains `expected`.
    fn refused(&self, place: &str, expected: &str) {
        let done = self.with(&[]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&format!("lion: {place}: ")) && said.contains(expected), "{said:?}");
        assert!(said.ends_with('\n') && said.lines().count() == 1, "{said:?}");
        assert!(done.stdout.is_empty());
        assert_eq!(fs::read_dir(self.folder.path()).expect("listed").count(), 0);
    }
}

#[test]
fn a_run_is_replayed_in_silence() {
    let run = Run::new("plain");
    let mut first = None;
    for more in [&[][..], &["--isa", "scalar"], &["--isa", "auto", "--threads", "2", "--chunk", "64"]] {
        let done = run.with(more);
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        assert!(done.stdout.is_empty() && done.stderr.is_empty(), "{done:?}");
        let bytes = fs::read(run.output()).expect("a result");
        assert_eq!(first.get_or_insert_with(|| bytes.clone()), &bytes);
    }
    let result = lion::checkpoint::Checkpoint::read(run.output()).expect("a checkpoint");
    let keras =
        lion::checkpoint::Checkpoint::read(golden("plain", "result.safetensors")).expect("a checkpoint");
    assert_eq!((result.iterations, result.variables.len()), (keras.iterations, keras.variables.len()));
    for (ours, theirs) in result.variables.iter().zip(&keras.variables) {
        // As text, so that NaN equals NaN and -0 differs from 0.
        let text = |variable: &lion::checkpoint::SavedVariable<'_>| {
            let tensors = [&variable.parameter, &variable.momentum];
            tensors.map(|it| it.as_ref().map(|it| format!("{} {:?}", it.dtype(), it.to_ref().to_f32())))
        };
        assert_eq!((&ours.name, text(ours)), (&theirs.name, text(theirs)));
    }
}

/// Keras computes such runs in the same way, although they train nothing.
#[test]
fn what_goes_wrong_in_silence_is_one_warning() {
    let mut stalled = Run::new("plain");
    let folder = tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    (stalled.config, stalled.input) = (path("config.json"), path("run.safetensors"));
    fs::write(&stalled.config, r#"{"learning_rate": 0.0001}"#).expect("written");
    let ones = [half::bf16::ONE; 4];
    let names = ["param/norm", "grad/0/norm", "grad/1/norm"];
    let tensors = names.map(|name| (name.to_owned(), &[4][..], lion::TensorRef::from(&ones)));
    fs::write(&stalled.input, lion_tests::safetensors::tensors(&tensors)).expect("written");
    for (run, expected) in [
        (stalled, "variable \"norm\": a step of 0.0001 does not move 100 % of its bf16 elements"),
        (Run::new("dynamic_scale_to_zero"), "the dynamic loss scale is 0: doubling leaves it at 0"),
        (Run::new("dynamic_scale_to_infinity"), "the dynamic loss scale is inf: halving leaves it infinite"),
    ] {
        let done = run.with(&[]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success() && run.output().exists(), "{said}");
        assert!(said.starts_with(&format!("lion: warning: {expected}")), "{said:?}");
        assert!(said.ends_with('\n') && said.lines().count() == 1, "{said:?}");
    }
}

#[test]
fn bad_usage() {
    let run = Run::new("plain");
    for more in [
        &["--isa", "sse9"][..],
        &["--threads", "0"],
        &["--chunk", "x"],
        &["--momentum-dtype", "f64"],
        &["--exclude-from-weight-decay", "("],
        &["--unknown"],
    ] {
        let done = run.with(more);
        assert_eq!(done.status.code(), Some(2), "{more:?}: {done:?}");
        assert!(!done.stderr.is_empty() && done.stdout.is_empty() && !run.output().exists());
    }
    for arguments in [&[][..], &["replay"], &["train"], &["replay", "--config", "x", "--input", "y"]] {
        assert_eq!(lion(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_lion"));
    let output = run.output().to_string_lossy().into_owned();
    command.args(["replay", "--config", &run.config, "--input", &run.input, "--output", &output]);
    let done = command.env("LION_ISA", "sse9").output().expect("it runs");
    assert_eq!(done.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&done.stderr).starts_with("lion: LION_ISA: backend \"sse9\" does not exist")
    );
    for arguments in [&["--help"][..], &["--version"], &["replay", "--help"]] {
        let done = lion(arguments);
        assert!(done.status.success() && !done.stdout.is_empty(), "{arguments:?}");
    }
}

/// A pattern can also be too large, which only the library finds out.
#[test]
fn bad_patterns_are_bad_usage() {
    let run = Run::new("plain");
    for pattern in ["(", r"\w{100}"] {
        let done = run.with(&["--exclude-from-weight-decay", "fine", "--exclude-from-weight-decay", pattern]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{said}");
        let expected =
            format!("lion: --exclude-from-weight-decay: {pattern:?} is not a usable regular expression");
        assert!(said.starts_with(&expected) && said.lines().count() == 1, "{said:?}");
        assert!(done.stdout.is_empty() && !run.output().exists());
    }
}

#[test]
fn bad_input() {
    let files = tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = files.path().join(name);
        fs::write(&path, bytes).expect("written");
        path.to_string_lossy().into_owned()
    };
    let run = |config: Option<String>, input: Option<String>| {
        let run = Run::new("plain");
        Run { config: config.unwrap_or(run.config), input: input.unwrap_or(run.input), folder: run.folder }
    };
    for (text, expected) in [
        (&b"{\"beta_1\": 1.5}"[..], "beta_1 is 1.5, and must be in (0, 1]"),
        (b"{\"clipnorm\": 1.0, \"clipvalue\": 1.0}", "at most one of"),
        (b"{\"momentum\": 1.0}", "momentum is not a known key"),
        (b"{\"beta_1\": 0.5,\n \"beta_1\": 0.5}", "duplicate key"),
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe", "is UTF-16 text; expected Keras's JSON"),
        (b"\xff", "is not valid JSON"),
        (b"[]", "must be an object"),
    ] {
        let config = file("config.json", text);
        run(Some(config.clone()), None).refused(&config, expected);
    }
    let missing = files.path().join("missing").to_string_lossy().into_owned();
    run(Some(missing.clone()), None).refused(&missing, "cannot open: ");
    run(None, Some(missing.clone())).refused(&missing, "cannot open: ");
    let whole = fs::read(golden("plain", "run.safetensors")).expect("bytes");
    let cut = file("cut.safetensors", &whole[..whole.len() - 1]);
    run(None, Some(cut.clone())).refused(&cut, "and the file has data for");
    let result = golden("plain", "result.safetensors");
    run(None, Some(result.clone())).refused(&result, "is neither param/<name> nor grad/<step>/<name>");
    let empty = file("empty.safetensors", b"");
    run(None, Some(empty.clone())).refused(&empty, "has 0 bytes");
}

#[test]
fn bad_runs() {
    let files = tempdir().expect("a folder");
    let tensor = |name: &str, dtype: &str, shape: &str, begin: usize, end: usize| {
        format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}")
    };
    let parameter = || tensor("param/a", "F32", "[2]", 0, 8);
    let huge = "[4611686018427387903]";
    for (tensors, expected) in [
        (vec![parameter(), tensor("grad/0/a", "F64", "[2]", 8, 24)], "grad/0/a: its dtype is \"F64\""),
        (vec![parameter(), tensor("grad/0/a", "I32", "[2]", 8, 16)], "grad/0/a: its dtype is \"I32\""),
        (
            vec![
                parameter(),
                tensor("grad/0/a", "F32", "[2]", 8, 16),
                tensor("grad/1/a", "F32", "[2,1]", 16, 24),
            ],
            "grad/1/a: has the shape [2, 1], and param/a has [2]",
        ),
        (
            vec![parameter(), tensor("grad/0/a", "F32", "[3]", 8, 20)],
            "grad/0/a: has the shape [3], and param/a has [2]",
        ),
        (vec![parameter(), tensor("param/a", "F32", "[2]", 8, 16)], "param/a: duplicate tensor name"),
        (
            vec![
                parameter(),
                tensor("grad/0/a", "F32", "[2]", 8, 16),
                tensor("grad/00/a", "F32", "[2]", 16, 24),
            ],
            "duplicate gradient of this step",
        ),
        (vec![tensor("param/a", "F32", huge, 0, 8)], "param/a: f32 of shape [4611686018427387903] is"),
        (
            vec![tensor("param/a", "F32", "[2]", 0, 1 << 60)],
            "param/a: its data_offsets are [0, 1152921504606846976]",
        ),
        (
            vec![parameter(), tensor("grad/18446744073709551615/a", "F32", "[2]", 8, 16)],
            "the run goes to step 18446744073709551615, and step 0 has no gradient",
        ),
    ] {
        let path = files.path().join("run.safetensors");
        let text = format!("{{{}}}", tensors.join(","));
        fs::write(&path, file(&text, &[0; 24][..last_end(&text)])).expect("written");
        let run = Run { input: path.to_string_lossy().into_owned(), ..Run::new("plain") };
        run.refused(&run.input, expected);
    }
    let path = files.path().join("long.safetensors");
    fs::write(&path, u64::MAX.to_le_bytes()).expect("written");
    let run = Run { input: path.to_string_lossy().into_owned(), ..Run::new("plain") };
    run.refused(&run.input, "its header claims 18446744073709551615 bytes");
}

/// Returns the end of the last tensor, at most the number of available bytes.
fn last_end(header: &str) -> usize {
    let ends = header.split("]}").filter_map(|part| part.rsplit(',').next()?.parse::<usize>().ok());
    ends.max().unwrap_or(0).min(24)
}

#[test]
fn bad_states() {
    let run = Run::new("everything");
    let refused = |state: &str, expected: &str| {
        let done = run.with(&["--state", state]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&format!("lion: {state}: ")) && said.contains(expected), "{said:?}");
        assert!(said.lines().count() == 1 && done.stdout.is_empty() && !run.output().exists(), "{said:?}");
    };
    refused(&golden("ema", "result.safetensors"), "is missing");
    refused(
        &golden("dynamic_everything", "result.safetensors"),
        "dynamic_scale: is present, and the optimizer has none",
    );
    refused(&golden("names_like_steps", "result.safetensors"), "the optimizer has no such variable");
    refused(&run.input, "is not a checkpoint: its metadata has no iterations");
    refused("/nowhere/state", "cannot open: ");
    let state = golden("everything", "result.safetensors");
    assert!(run.with(&["--state", &state]).status.success());
    fs::remove_file(run.output()).expect("it was there");
    // The program of this checkpoint keeps its parameters elsewhere.
    let mut checkpoint = lion::checkpoint::Checkpoint::read(&state).expect("a checkpoint");
    checkpoint.variables[0].parameter = None;
    let files = tempdir().expect("a folder");
    let path = files.path().join("without.safetensors");
    checkpoint.write(&path).expect("written");
    let name = format!("param/{}: is missing", checkpoint.variables[0].name);
    refused(&path.to_string_lossy(), &name);
}

/// With any damaged file the command succeeds, or fails with one line.
#[test]
fn damaged_files() {
    let files = tempdir().expect("a folder");
    let path = |name: &str| files.path().join(name).to_string_lossy().into_owned();
    let [damaged, output] = ["damaged", "output"].map(path);
    let whole = Run::new("names_like_steps");
    let state = golden("names_like_steps", "result.safetensors");
    let mut outcomes = [0; 2];
    for (bytes, is_state) in [
        (fs::read(&whole.input).expect("bytes"), false),
        (fs::read(&state).expect("bytes"), true),
        (fs::read(&whole.config).expect("bytes"), false),
    ] {
        let is_config = bytes.first() == Some(&b'{');
        for round in 0..60 {
            let mut bytes = bytes.clone();
            let place = round * bytes.len() / 60;
            match round % 3 {
                0 => bytes.truncate(place),
                1 => bytes[place] ^= 1 << (round % 8),
                _ => bytes[place] = b'9',
            }
            fs::write(&damaged, bytes).expect("written");
            let input = if is_state || is_config { &whole.input } else { &damaged };
            let config = if is_config { &damaged } else { &whole.config };
            let mut arguments = vec!["replay", "--config", config, "--input", input, "--output", &output];
            if is_state {
                arguments.extend(["--state", &damaged]);
            }
            let done = lion(&arguments);
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            match done.status.code() {
                Some(0) => {
                    assert!(said.is_empty(), "{said}");
                    fs::remove_file(&output).expect("the result");
                }
                code => {
                    assert_eq!(code, Some(1), "{said}");
                    assert!(
                        said.starts_with(&format!("lion: {damaged}: ")) && said.lines().count() == 1,
                        "{said}"
                    );
                }
            }
            outcomes[usize::from(done.status.success())] += 1;
            assert_eq!(fs::read_dir(files.path()).expect("listed").count(), 1);
        }
    }
    assert!(outcomes.iter().all(|&count| count > 0), "{outcomes:?}");
}

#[test]
fn what_is_wrong_with_the_environment_is_said_once() {
    let run = Run::new("plain");
    let output = run.output().to_string_lossy().into_owned();
    let cases =
        [("LION_PROFILE", "/nowhere/profile.toml", "using defaults"), ("LION_CHUNK", "many", "ignored")];
    for (name, value, expected) in cases {
        for more in [&[][..], &["--threads", "2"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_lion"));
            command.args(["replay", "--config", &run.config, "--input", &run.input, "--output", &output]);
            for variable in ["LION_ISA", "LION_PROFILE", "LION_NO_PROFILE", "LION_CHUNK", "LION_NUM_THREADS"]
            {
                command.env_remove(variable);
            }
            let home = run.folder.path();
            command.args(more).env(name, value).env("HOME", home).env_remove("XDG_CONFIG_HOME");
            let done = command.output().expect("it runs");
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success(), "{said}");
            assert!(said.starts_with("lion: warning: ") && said.contains(value), "{name} {more:?}: {said:?}");
            assert!(said.contains(expected) && said.lines().count() == 1, "{name} {more:?}: {said:?}");
        }
    }
}

#[test]
fn an_output_that_cannot_be_is_refused_before_the_run() {
    let run = Run::new("plain");
    let folder = run.folder.path().to_string_lossy().into_owned();
    let nowhere = run.folder.path().join("missing/x").to_string_lossy().into_owned();
    for output in [folder, nowhere, "/dev/null".into()] {
        let done = lion(&["replay", "--config", &run.config, "--input", &run.input, "--output", &output]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&format!("lion: {output}: cannot write: ")), "{said}");
    }
}

#[test]
fn an_output_in_the_place_of_an_input_is_bad_usage() {
    let golden = Run::new("plain");
    let path = |name: &str| golden.folder.path().join(name).to_string_lossy().into_owned();
    let [config, input, profile] = ["config.json", "run.safetensors", "profile.toml"].map(path);
    fs::copy(&golden.config, &config).expect("copied");
    fs::copy(&golden.input, &input).expect("copied");
    fs::write(&profile, "").expect("written");
    fs::create_dir(path("folder")).expect("made");
    let replay = |output: &str| {
        let arguments = ["replay", "--config", &config, "--input", &input, "--profile", &profile];
        lion(&[&arguments[..], &["--output", output]].concat())
    };
    let files = [("--config", &config), ("--input", &input), ("--profile", &profile)];
    for (option, file) in files {
        let before = fs::read(file).expect("there");
        let name = Path::new(file).file_name().expect("a name").to_string_lossy().into_owned();
        for output in [file.clone(), path(&format!("folder/../{name}"))] {
            let done = replay(&output);
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(2), "{said}");
            let expected = format!("lion: --output: {output}: would replace the file of {option}\n");
            assert_eq!(said, expected);
            assert_eq!(fs::read(file).expect("there"), before);
        }
    }
}

#[test]
fn a_state_may_be_replaced_by_what_it_comes_to() {
    let run = Run::new("plain");
    assert!(run.with(&[]).status.success());
    let state = run.output().to_string_lossy().into_owned();
    let before = fs::read(&state).expect("a result");
    let done = run.with(&["--state", &state]);
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    assert_ne!(fs::read(&state).expect("a result"), before);
}

#[test]
fn the_doctor_reports() {
    let done = lion(&["doctor"]);
    assert!(done.status.success() && done.stderr.is_empty());
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    for word in ["cpu", "backends", "chosen", "huge pages", "cores", "LION_ISA", "profile"] {
        assert!(said.lines().any(|line| line.starts_with(word)), "{word} is missing: {said}");
    }
    assert!(said.contains("scalar"));
}

/// A closed stdout is neither a panic nor a failure.
#[test]
fn a_broken_pipe() {
    for arguments in [&["doctor"][..], &["--help"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lion"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        drop(child.stdout.take());
        let done = child.wait_with_output().expect("it ends");
        assert_eq!(done.status.code(), Some(0), "{arguments:?}: {done:?}");
        assert!(done.stderr.is_empty(), "{done:?}");
    }
}
