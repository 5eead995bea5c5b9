//! A sharded checkpoint: saved on some ranks and resumed on others, by bits; as one file and back; and what is refused.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::model::{model, plain};
use common::{Snapshot, Training, metrics_text, on_ranks};
use lion::checkpoint::{Checkpoint, Tensor};
use lion::{Dtype, Lion, TensorBuf};
use lion_distributed::checkpoint::{Index, merge, split};
use lion_distributed::{Communicator, Settings, Sharded, Variable};
use lion_kernels::Backend;
use lion_tests::Rng;
use lion_tests::model::{Clip, Options, Scale};
use tempfile::tempdir;

const LEAVES: usize = 12;
const CALLS: usize = 6;

/// A training with every kind of state, that is in the middle of a window when it is saved.
fn training() -> Training {
    let options = Options {
        clip: Clip::GlobalNorm(0.5),
        accumulation_steps: Some(2),
        ema_momentum: Some(0.9),
        ema_overwrite_frequency: Some(2),
        scale: Scale::Dynamic { initial: 1024.0, growth: 2 },
        ..plain()
    };
    Training::new(model(options, Some(Dtype::BF16), CALLS), LEAVES, &mut Rng::with_seed(7))
}

/// The same with 8-bit momentum, and low halves or a seed.
fn narrow(split_master: bool) -> Training {
    let mut training = training();
    training.scenario.momentum_dtype = Some(Dtype::Q8);
    training.scenario.split_master = split_master;
    training.scenario.stochastic_rounding = (!split_master).then_some(7);
    training
}

/// Runs on some ranks up to a call, and saves.
fn save(training: &Training, ranks: usize, calls: usize, index: &Path) {
    on_ranks(ranks, |communicator| {
        let mut sharded =
            training.sharded(communicator, Backend::best(), Settings::new(LEAVES)).expect("an optimizer");
        let mut parameters = training.parameters();
        for call in 0..calls {
            training.call(&mut sharded, call, &mut parameters).expect("applied");
        }
        let mut updates = Training::without_gradients(&sharded, &mut parameters);
        sharded.save(index, &mut updates).expect("saved");
    });
}

/// Goes on from a checkpoint on some ranks, from a call on, and compares each call with one process's.
fn resume(training: &Training, ranks: usize, calls: usize, index: &Path, expected: &[Snapshot]) {
    on_ranks(ranks, |communicator| {
        let mut sharded =
            training.sharded(communicator, Backend::best(), Settings::new(LEAVES)).expect("an optimizer");
        // Values that must not be seen again.
        let mut parameters = training.parameters();
        let mut updates = Training::without_gradients(&sharded, &mut parameters);
        sharded.restore(index, &mut updates).expect("restored");
        for (call, expected) in expected.iter().enumerate().skip(calls - 1) {
            let metrics = match call >= calls {
                true => metrics_text(training.call(&mut sharded, call, &mut parameters).expect("applied")),
                false => expected.metrics.clone(),
            };
            let found = Snapshot::new(sharded.optimizer(), &parameters, metrics);
            found.must_be_part_of(expected, || format!("call {call} on {ranks} ranks"));
        }
    });
}

#[test]
fn saved_on_some_ranks_and_resumed_on_others() {
    for training in [training(), narrow(false), narrow(true)] {
        saved_and_resumed(&training);
    }
}

fn saved_and_resumed(training: &Training) {
    let expected = training.alone(Backend::Scalar);
    let folder = tempdir().expect("a folder");
    for from in [1, 2, 3, 4, 6, 12] {
        let calls = 1 + from % (CALLS - 1);
        // All into one index, so that the files of others go.
        let index = folder.path().join("run.json");
        save(training, from, calls, &index);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), from + 1);
        for to in [1, 2, 3, 4, 6, 12] {
            resume(training, to, calls, &index, &expected);
        }
    }
}

/// One process's checkpoint after some calls.
fn whole(training: &Training, calls: usize, path: &Path) {
    let (optimizer, parameters) = training.run_alone(Backend::best(), calls, |_, _, _| {});
    let mut checkpoint = optimizer.checkpoint().expect("no open step");
    for (variable, parameter) in checkpoint.variables.iter_mut().zip(&parameters) {
        variable.parameter = Some(Tensor::Borrowed(parameter.to_ref()));
    }
    checkpoint.write(path).expect("written");
}

#[test]
fn as_one_file_and_back() {
    for training in [training(), narrow(false), narrow(true)] {
        as_one_file(&training);
    }
}

fn as_one_file(training: &Training) {
    let expected = training.alone(Backend::Scalar);
    let folder = tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    whole(training, 3, &path("whole.safetensors"));
    let bytes = fs::read(path("whole.safetensors")).expect("read");
    for ranks in [1, 3, 4, 12] {
        save(training, ranks, 3, &path("saved.json"));
        merge(path("saved.json"), path("merged.safetensors")).expect("merged");
        assert_eq!(fs::read(path("merged.safetensors")).expect("read"), bytes, "{ranks} ranks");

        split(path("merged.safetensors"), ranks, path("split.json")).expect("split");
        merge(path("split.json"), path("again.safetensors")).expect("merged");
        assert_eq!(fs::read(path("again.safetensors")).expect("read"), bytes, "{ranks} ranks");
        resume(training, 2, 3, &path("split.json"), &expected);
    }
    // Of one split only the last files are left.
    let left = fs::read_dir(folder.path()).expect("a folder").filter_map(Result::ok);
    let left = left.filter(|it| it.file_name().to_string_lossy().starts_with("split-")).count();
    assert_eq!(left, 12);
    // And it is what one process goes on from.
    let checkpoint = Checkpoint::read(path("again.safetensors")).expect("a checkpoint");
    let scenario = &training.scenario;
    let mut optimizer =
        scenario.optimizer(scenario.config().expect("a config"), Backend::best()).expect("valid");
    scenario.register(&mut optimizer).expect("registered");
    optimizer.restore(&checkpoint).expect("restored");
    let found = Snapshot::new(&optimizer, &[], String::new());
    assert!(found.state == expected[2].state);

    let refused = |result: Result<(), lion_distributed::Error>, expected: &str| {
        let error = result.expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    };
    let error = "the number of ranks is 14; expected 1 to 13, the number of blocks of 4096 elements";
    refused(split(path("whole.safetensors"), 14, path("split.json")), error);
    let shard = fs::read_dir(folder.path()).expect("a folder").filter_map(Result::ok).map(|it| it.path());
    let shard = shard.into_iter().find(|it| it.to_string_lossy().contains("split-")).expect("a shard");
    refused(split(&shard, 2, path("other.json")), "is a part of a checkpoint; expected a whole one");
    refused(
        merge(path("whole.safetensors"), path("x.safetensors")),
        "is not the index of a sharded checkpoint",
    );
    assert!(!path("x.safetensors").exists() && !path("other.json").exists());
}

/// What restoring says on each of three ranks, and whether merging says so too.
fn refused(training: &Training, index: &Path, expected: &str) {
    let found = on_ranks(3, |communicator| {
        let mut sharded =
            training.sharded(communicator, Backend::best(), Settings::new(LEAVES)).expect("an optimizer");
        let mut parameters = training.parameters();
        training.call(&mut sharded, 0, &mut parameters).expect("applied");
        let state = |sharded: &Sharded<_>, parameters: &[TensorBuf]| {
            Snapshot::new(sharded.optimizer(), parameters, String::new())
        };
        let before = state(&sharded, &parameters);
        let mut updates = Training::without_gradients(&sharded, &mut parameters);
        let error = sharded.restore(index, &mut updates).expect_err(expected).to_string();
        assert!(state(&sharded, &parameters) == before, "{error}");
        training.call(&mut sharded, 1, &mut parameters).expect("the run goes on");
        error
    });
    assert!(found.iter().any(|error| error.contains(expected)), "{expected}: {found:?}");
    for (rank, error) in found.iter().enumerate() {
        let elsewhere = (0..3).any(|other| other != rank && error.starts_with(&format!("rank {other}: ")));
        assert!(elsewhere || error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_broken_is_refused_on_all_ranks() {
    let training = training();
    let folder = tempdir().expect("a folder");
    let index = folder.path().join("run.json");
    save(&training, 4, 3, &index);
    let shards = |folder: &Path| {
        let mut found: Vec<PathBuf> = fs::read_dir(folder)
            .expect("a folder")
            .filter_map(Result::ok)
            .map(|it| it.path())
            .filter(|it| it.extension().is_some_and(|it| it == "safetensors"))
            .collect();
        found.sort();
        found
    };
    let files = shards(folder.path());
    let text = fs::read_to_string(&index).expect("an index");
    let other = tempdir().expect("a folder");
    save(&training, 4, 3, &other.path().join("run.json"));
    let of_another = fs::read(&shards(other.path())[2]).expect("a shard");
    let third = fs::read(&files[2]).expect("a shard");
    let again = |path: &Path, bytes: &[u8]| fs::write(path, bytes).expect("written");

    fs::remove_file(&files[2]).expect("removed");
    refused(&training, &index, "cannot open");
    again(&files[2], &third[..third.len() - 1]);
    refused(&training, &index, "it was cut short, or is still being written");
    again(&files[2], &of_another);
    refused(&training, &index, "is of the run \"");
    // A file of the same run under another's name has other elements.
    again(&files[2], &fs::read(&files[1]).expect("a shard"));
    refused(&training, &index, "its files have the elements ");
    assert!(merge(&index, other.path().join("merged.safetensors")).is_err());
    again(&files[2], b"garbage");
    refused(&training, &index, "the length of a header takes 8");
    again(&files[2], &third);

    let broken: [(&str, &str, &str); 12] = [
        (
            "[\n          0,\n          0,\n",
            "[\n          0,\n          4096,\n",
            "its parts end at|comes after a gap|overlaps",
        ),
        ("\"format_version\": 1", "\"format_version\": 2", "its format_version is 2; this program knows 1"),
        ("\"iterations\"", "\"iteration\"", "unknown field `iteration`"),
        ("\"run\": \"", "\"run\": \"x", "its run is not 16 hexadecimal digits"),
        ("\"f32\"", "\"f33\"", "has the dtype \"f33\""),
        ("\"f32\"", "\"bf16\"", "is bf16 of shape [5, 4099], and the variable f32 of [5, 4099]"),
        ("4099", "4098", "its parts end at"),
        ("4099", "18446744073709551615", "has more elements than memory can hold"),
        ("\"a.0\"", "\"z.0\"", "param/a.0: is missing"),
        ("\"a.0\"", "\"b.1\"", "which is empty or taken"),
        ("\"run-", "\"../run-", "is not the name of a file"),
        ("{", "", "expected"),
    ];
    for (old, new, expected) in broken {
        assert!(text.contains(old), "{old} in {text}");
        fs::write(&index, text.replacen(old, new, 1)).expect("written");
        let expected: Vec<_> = expected.split('|').collect();
        let found = Index::read(&index).err().map(|error| error.to_string());
        let expected = expected.iter().find(|it| found.as_ref().is_none_or(|found| found.contains(**it)));
        refused(&training, &index, expected.unwrap_or_else(|| panic!("{old}: {found:?}")));
    }
    fs::write(&index, &text).expect("written");
    let alone = training.alone(Backend::Scalar);
    resume(&training, 3, 3, &index, &alone);
}

#[test]
fn what_cannot_be_saved_leaves_what_there_was() {
    let training = training();
    let folder = tempdir().expect("a folder");
    let index = folder.path().join("run.json");
    save(&training, 3, 2, &index);
    let text = fs::read(&index).expect("an index");
    let found = on_ranks(3, |communicator| {
        let mut sharded =
            training.sharded(communicator, Backend::best(), Settings::new(LEAVES)).expect("an optimizer");
        let mut parameters = training.parameters();
        let rank = sharded.communicator().rank();
        let mut save = |path: &Path, count: usize| {
            let mut updates = Training::without_gradients(&sharded, &mut parameters);
            updates.truncate(count);
            sharded.save(path, &mut updates).expect_err("refused").to_string()
        };
        // A folder that one rank does not see.
        let elsewhere = if rank == 1 { folder.path().join("gone/run.json") } else { index.clone() };
        let missing = if rank == 2 { 3 } else { 6 };
        let other_name = if rank == 1 { folder.path().join("other.json") } else { index.clone() };
        [
            save(&elsewhere, 6),
            save(&index, missing),
            save(&other_name, 6),
            save(folder.path(), 6),
            save(&folder.path().join("no-extension"), 6),
        ]
    });
    let expected = [
        "No such file",
        "rank 2: the number of variables of the call is 3, without \"e.4\"; expected all of them",
        "the index of rank 1: other.json; expected run.json, as on rank 0",
        "is not the name of an index",
        "is not the name of an index",
    ];
    for errors in &found {
        for (error, expected) in errors.iter().zip(expected) {
            let expected = expected.trim_start_matches("rank 2: ");
            assert!(error.contains(expected), "{error}");
        }
    }
    assert_eq!(fs::read(&index).expect("an index"), text);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 4, "no file of a failed save is left");
}

/// A checkpoint of other options than the optimizer's.
#[test]
fn a_checkpoint_of_another_optimizer() {
    let training = training();
    let folder = tempdir().expect("a folder");
    let index = folder.path().join("run.json");
    save(&training, 2, 2, &index);
    let found = on_ranks(2, |communicator| {
        let optimizer = Lion::builder().build().expect("valid");
        let variables = &training.scenario.variables;
        let variables: Vec<_> =
            variables.iter().map(|it| Variable::new(&it.name, &it.shape, it.values.dtype())).collect();
        let mut sharded =
            Sharded::new(communicator, optimizer, &variables, Settings::new(2)).expect("an optimizer");
        let mut parameters = training.parameters();
        let mut updates = Training::without_gradients(&sharded, &mut parameters);
        sharded.restore(&index, &mut updates).expect_err("another").to_string()
    });
    assert!(
        found.iter().all(|it| it.contains("dynamic_scale: is present, and the optimizer has none")),
        "{found:?}"
    );
}
