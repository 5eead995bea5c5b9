//! Checkpoints: a written checkpoint reads back bit for bit, invalid ones return an error, and a kill at any moment
//! leaves a valid file.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use half::bf16;
use lion::Config;
use lion::checkpoint::{Checkpoint, LossScaleState, MomentumMapping, SavedVariable, Tensor, import_momentum};
use lion::tensor_file::{self, Entry};
use lion_tests::Rng;
use lion_tests::safetensors::{file, zeros};
use tempfile::tempdir;

fn single(tensor: &Option<Tensor<'_>>) -> Vec<u32> {
    let tensor = tensor.as_ref().expect("is there").to_ref();
    tensor.as_slice::<f32>().expect("is f32").iter().map(|x| x.to_bits()).collect()
}

#[test]
fn what_is_written_comes_back() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    let values = [1.0_f32, -0.0, f32::MIN_POSITIVE / 2.0];
    let momentum = [bf16::ONE, bf16::NEG_ZERO, bf16::MIN];
    let tensor = || Some(Tensor::from(&values[..]));
    let mut all = SavedVariable::new("net/0.kernel", &[3, 1]);
    (all.parameter, all.ema, all.accumulator) = (tensor(), tensor(), tensor());
    all.momentum = Some(Tensor::from(&momentum[..]));
    let mut alone = SavedVariable::new("a", &[3]);
    alone.parameter = tensor();
    let config = Config::default().to_json().expect("written");
    for scale in [32768.0, 0.1, 0.0, f32::INFINITY, f32::MAX, f32::from_bits(1), 3.0e-20] {
        let checkpoint = Checkpoint {
            variables: vec![
                SavedVariable { parameter: tensor(), ..SavedVariable::new("momentum/param/x", &[3]) },
                SavedVariable { parameter: tensor(), ..SavedVariable::new("b", &[1, 3]) },
            ],
            iterations: u64::MAX,
            dynamic: Some(LossScaleState { scale, step_counter: 12 }),
            config_json: Some(config.clone()),
            seed: Some(u64::MAX),
        };
        checkpoint.write(&path).expect("written");
        let read = Checkpoint::read(&path).expect("read");
        assert_eq!(read.dynamic.map(|it| it.scale.to_bits()), Some(scale.to_bits()));
        assert_eq!((read.iterations, read.seed), (u64::MAX, Some(u64::MAX)));
        assert_eq!(read.config().expect("valid"), Some(Config::default()));
        let names: Vec<_> = read.variables.iter().map(|variable| variable.name.as_str()).collect();
        assert_eq!(names, ["b", "momentum/param/x"]);
    }
    let checkpoint = Checkpoint { variables: vec![all, alone], ..Checkpoint::default() };
    checkpoint.write(&path).expect("written");
    let read = Checkpoint::read(&path).expect("read");
    assert_eq!((read.dynamic, read.iterations), (None, 0));
    let [alone, all] = read.variables.as_slice() else { panic!("{read:?}") };
    assert_eq!((alone.name.as_str(), all.name.as_str()), ("a", "net/0.kernel"));
    assert!(alone.momentum.is_none() && alone.ema.is_none() && alone.accumulator.is_none());
    assert_eq!((alone.shape.as_slice(), all.shape.as_slice()), (&[3][..], &[3, 1][..]));
    let bits: Vec<_> = values.iter().map(|x| x.to_bits()).collect();
    for tensor in [&all.parameter, &all.ema, &all.accumulator, &alone.parameter] {
        assert_eq!(single(tensor), bits);
    }
    let found = all.momentum.as_ref().expect("is there").to_ref();
    let found = found.as_slice::<bf16>().expect("is bf16");
    assert!(found.iter().map(|x| x.to_bits()).eq(momentum.map(bf16::to_bits)));
}

#[test]
fn files_that_are_no_checkpoints() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    let refused = |metadata: &str, entry: &str, expected: &str| {
        let header = format!("{{\"__metadata__\":{{{metadata}}}{entry}}}");
        let data = if entry.is_empty() { &[][..] } else { &[0; 8] };
        fs::write(&path, file(&header, data)).expect("written");
        let error = Checkpoint::read(&path).map(|_| ()).expect_err("refused").to_string();
        assert!(error.starts_with(&format!("{}: ", path.display())) && !error.contains('\n'), "{error}");
        assert!(error.contains(expected), "{error}");
    };
    let good = r#""iterations":"1""#;
    refused("", "", "its metadata has no iterations");
    refused(r#""iterations":"-1""#, "", "the metadata's iterations is \"-1\", and must be a whole number");
    refused(r#""iterations":"1","format_version":"3""#, "", "its format_version is 3");
    refused(r#""iterations":"1","format_version":"x""#, "", "format_version is \"x\"");
    refused(r#""iterations":"1","dynamic_scale":"1.0""#, "", "only one of dynamic_scale and step_counter");
    for scale in ["NaN", "-1", "-inf"] {
        let metadata = format!("{good},\"dynamic_scale\":\"{scale}\",\"step_counter\":\"0\"");
        refused(&metadata, "", "must not be negative");
    }
    let config = r#""iterations":"1","config":"{\"beta_1\": 1.5}""#;
    refused(config, "", "the metadata's config: beta_1 is 1.5, and must be in (0, 1]");
    let tensor = |name: &str, dtype: &str, shape: &str| {
        format!(",\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[0,8]}}")
    };
    for name in ["weights/a", "param", "param/", "a"] {
        refused(good, &tensor(name, "F32", "[2]"), &format!("{name}: is not a tensor of a checkpoint"));
    }
    refused(good, &tensor("ema/a", "F16", "[4]"), "ema/a: is f16, and must be f32");
    refused(good, &tensor("accumulator/a", "BF16", "[4]"), "accumulator/a: is bf16, and must be f32");
    let pair = r#","momentum/a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                   "param/a":{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}"#;
    refused(good, &pair.replace('\n', ""), "param/a: has the shape [1, 1], and momentum/a has [1]");
}

/// A shard in the metadata that is nonsense, or that does not fit its tensor.
#[test]
fn files_whose_shards_do_not_fit() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    let refused = |shards: &str, expected: &str| {
        let shards = shards.replace('"', "\\\"");
        let metadata = format!(r#""iterations":"1","format_version":"2","shards":"{shards}""#);
        let tensor = r#""momentum/a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
        let header = format!("{{\"__metadata__\":{{{metadata}}},{tensor}}}");
        fs::write(&path, file(&header, &[0; 8])).expect("written");
        let error = Checkpoint::read(&path).map(|_| ()).expect_err("refused").to_string();
        assert!(error.starts_with(&format!("{}: ", path.display())) && !error.contains('\n'), "{error}");
        assert!(error.contains(expected), "{error}");
    };
    refused("{", "the metadata's shards: EOF");
    refused("[]", "the metadata's shards: invalid type");
    refused(r#"{"a": [[4], 2]}"#, "the metadata's shards: invalid length 2");
    refused(r#"{"a": [[4], -1, 1]}"#, "the metadata's shards: invalid value");
    refused(
        r#"{"a": [[4], 3, 1]}"#,
        r#"the metadata's shards: "a" has the range 3..1; expected one within 0..4"#,
    );
    refused(
        r#"{"a": [[4], 3, 5]}"#,
        r#"the metadata's shards: "a" has the range 3..5; expected one within 0..4"#,
    );
    refused(r#"{"a": [[4611686018427387904, 8], 0, 2]}"#, "more elements than memory can hold");
    refused(r#"{"a": [[4], 0, 3]}"#, "momentum/a: has the shape [2], and its shard in the metadata has [3]");
    refused(
        r#"{"a": [[4], 0, 2], "b": [[4], 0, 2]}"#,
        r#"the metadata's shards has "b", which has no tensor"#,
    );
}

/// Keras's results are checkpoints.
#[test]
fn golden_results_are_read() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join("cases");
    let mut count = 0;
    for case in fs::read_dir(cases).expect("listed") {
        let path = case.expect("an entry").path().join("result.safetensors");
        let read = Checkpoint::read(&path).unwrap_or_else(|error| panic!("{error}"));
        assert!(!read.variables.is_empty());
        let name = path.to_string_lossy().into_owned();
        assert_eq!(read.dynamic.is_some(), name.contains("dynamic"), "{name}");
        count += 1;
    }
    assert!(count > 50, "{count}");
}

#[test]
fn momentum_of_other_programs() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("foreign.safetensors");
    let values = [1.0_f32, 2.0];
    let variables = [("net/kernel", &[2][..]), ("bias", &[1])];
    for (names, [kernel, bias]) in [
        (MomentumMapping::torch(), ["net.kernel.exp_avg", "exp_avg/bias"]),
        (MomentumMapping::keras(), ["lion/net_kernel_momentum", "lion/bias_momentum"]),
        (MomentumMapping::optax(), ["0/mu/net/kernel", "0.mu.bias"]),
        (MomentumMapping::patterns(["m/{name}"]).rename("bias", "{name}"), ["m/net/kernel", "m/{name}"]),
    ] {
        let entries = [
            Entry { name: kernel, shape: &[2], values: (&values[..]).into() },
            Entry { name: bias, shape: &[1], values: (&values[1..]).into() },
            Entry { name: "else", shape: &[], values: (&values[1..]).into() },
        ];
        tensor_file::write(&path, &entries, &[]).expect("written");
        let read = import_momentum(&path, &names, variables).expect("found");
        assert_eq!(read.iter().map(|values| values.len()).collect::<Vec<_>>(), [2, 1]);
        let refused = |variable, expected: &str| {
            let error =
                import_momentum(&path, &names, [variable]).map(|_| ()).expect_err("refused").to_string();
            assert!(
                error.starts_with(&format!("{}: ", path.display())) && error.contains(expected),
                "{error}"
            );
        };
        refused(("scale", &[1]), "scale: no momentum in f32, f16 or bf16; looked for ");
        refused(("bias", &[1, 1]), "has the shape [1], and the variable \"bias\" has [1, 1]");
    }
    fs::write(&path, zeros(&[("bias.exp_avg", 1), ("exp_avg.bias", 1)])).expect("written");
    let two = import_momentum(&path, &MomentumMapping::torch(), [("bias", &[1][..])]);
    let error = two.map(|_| ()).expect_err("two").to_string();
    assert!(error.contains("bias: its momentum may be bias.exp_avg or exp_avg.bias"), "{error}");
}

/// Files as Keras 3 and tf.keras wrote them, and the names that wrappers and chains make.
#[test]
fn momentum_is_found_where_programs_put_it() {
    let found = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("found").join(name);
    for (file, [kernel, bias]) in [
        ("keras3/momentum.safetensors", ["net/dense/kernel", "net/dense/bias"]),
        ("keras3/momentum_1.safetensors", ["net/dense/kernel", "net/dense/bias"]),
        ("keras2/momentum.safetensors", ["dense/kernel", "dense/bias"]),
    ] {
        let variables = [(kernel, &[2, 1][..]), (bias, &[1])];
        let read = import_momentum(found(file), &MomentumMapping::keras(), variables).expect("found");
        assert_eq!(read.iter().map(|values| values.len()).collect::<Vec<_>>(), [2, 1]);
    }
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("foreign.safetensors");
    let import = |names: &MomentumMapping, there: &[&str], variables: &[&str]| {
        let sizes: Vec<_> = there.iter().enumerate().map(|(index, name)| (*name, index + 1)).collect();
        fs::write(&path, zeros(&sizes)).expect("written");
        let shapes: Vec<_> = (1..=variables.len()).map(|size| [size]).collect();
        let variables = variables.iter().copied().zip(shapes.iter().map(|shape| &shape[..]));
        import_momentum(&path, names, variables).map(|_| ()).map_err(|error| error.to_string())
    };
    let (torch, keras, optax) =
        (MomentumMapping::torch(), MomentumMapping::keras(), MomentumMapping::optax());
    for (names, there) in [
        (&torch, "module.net.kernel.exp_avg"),
        (&torch, "_orig_mod.net.kernel.exp_avg"),
        (&torch, "exp_avg.module._orig_mod.net.kernel"),
        (&torch, "state._orig_mod.module.net.kernel.exp_avg"),
        (&keras, "optimizer/lion_12/net_kernel_momentum"),
        (&keras, "Lion_1/m/net/kernel:0"),
        (&optax, "1/mu/net/kernel"),
        (&optax, "opt_state/1/0/mu/params/net/kernel"),
        (&optax, "opt_state.2.mu.net.kernel"),
        (&optax, "inner_state/0/mu/net/kernel"),
        (&optax, "opt_state/inner_opt_state/1/0/mu/net/kernel"),
    ] {
        assert_eq!(import(names, &[there], &["net/kernel"]), Ok(()), "{there}");
    }
    // A name of its own comes first.
    let pair = ["w.exp_avg", "module.w.exp_avg"];
    assert_eq!(import(&torch, &pair, &["w", "module/w"]), Ok(()));
    let wrapped = ["module.w.exp_avg", "module.module.w.exp_avg"];
    let both = import(&torch, &wrapped, &["module/w", "w"]).expect_err("one tensor for two");
    assert!(both.contains("w") && both.contains("may be"), "{both}");
    let both = import(&torch, &["module.w.exp_avg"], &["module/w", "w"]).expect_err("one tensor for two");
    assert!(both.contains("has the shape [1]"), "{both}");
    let two = import(&optax, &["1/mu/w", "2/mu/w"], &["w"]).expect_err("two of them");
    assert!(two.contains("its momentum may be 1/mu/w or 2/mu/w"), "{two}");
    let none = import(&torch, &["mod.w.exp_avg"], &["w"]).expect_err("another prefix");
    assert!(none.ends_with("state/w/exp_avg, also after module. and _orig_mod."), "{none}");
    // Both have the shape of the one tensor.
    fs::write(&path, zeros(&[("module.w.exp_avg", 1)])).expect("written");
    let variables = [("module/w", &[1][..]), ("w", &[1])];
    let error = import_momentum(&path, &torch, variables).map(|_| ()).expect_err("two of them").to_string();
    assert!(
        error.contains(r#"it is the momentum of both "module/w" and "w"; rename() says which"#),
        "{error}"
    );
}

/// Set in the process that the crash test starts: the file that it writes, over and over.
const WRITE: &str = "LION_TEST_WRITES_CHECKPOINTS_TO";

/// Writes checkpoints number 0, 1, 2, … of which each element says its number, until it is killed.
fn write_forever(path: &Path) {
    for number in 0_u64.. {
        // Sizes differ, so that a mixture of two files cannot look like one.
        let values = vec![number as f32; 1000 + (number % 7) as usize * 3000];
        let mut variable = SavedVariable::new("w", &[values.len()]);
        variable.parameter = Some(Tensor::from(&values[..]));
        variable.momentum = Some(Tensor::from(&values[..]));
        let checkpoint =
            Checkpoint { variables: vec![variable], iterations: number, ..Checkpoint::default() };
        checkpoint.write(path).expect("written");
    }
}

fn check_numbered(path: &Path) -> u64 {
    let read = Checkpoint::read(path).unwrap_or_else(|error| panic!("{error}"));
    let [variable] = read.variables.as_slice() else { panic!("{read:?}") };
    assert_eq!(variable.shape, [1000 + (read.iterations % 7) as usize * 3000]);
    for tensor in [&variable.parameter, &variable.momentum] {
        assert!(single(tensor).iter().all(|&bits| bits == (read.iterations as f32).to_bits()));
    }
    read.iterations
}

#[test]
fn killed_at_any_moment() {
    if let Some(path) = std::env::var_os(WRITE) {
        return write_forever(Path::new(&path));
    }
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    let mut random = Rng::with_seed(11);
    let mut numbers = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "killed_at_any_moment"])
            .env(WRITE, &path)
            .stdout(Stdio::null())
            .spawn()
            .expect("the process starts");
        // Until it has begun: an older process's file is taken away first.
        let deadline = Instant::now() + Duration::from_secs(60);
        while !path.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(random.u64(0..20_000)));
        // SIGKILL.
        child.kill().expect("killed");
        child.wait().expect("ended");
        numbers.insert(check_numbered(&path));
        // A killed process may leave one file of another name, and the next one removes it.
        let entries =
            fs::read_dir(folder.path()).expect("listed").map(|entry| entry.expect("an entry").path());
        let others: Vec<_> = entries.filter(|entry| *entry != path).collect();
        assert!(others.len() <= 1, "{others:?}");
        for other in others {
            let name = other.file_name().expect("a name").to_string_lossy().into_owned();
            assert!(name.starts_with(".state.safetensors.lion-") && name.ends_with(".tmp"), "{name}");
        }
        fs::remove_file(&path).expect("removed");
    }
    assert!(numbers.len() > 1, "all were killed at the same checkpoint: {numbers:?}");
}
