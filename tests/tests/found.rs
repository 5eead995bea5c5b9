//! Real configs: files written by Keras 3, Keras 2 and their users, in `tests/found`.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use lion::schedule::{CosineDecay, PiecewiseConstantDecay};
use lion::{Config, DynamicLossScale, Error, Schedule};

fn found(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("found").join(name)
}

/// The config that all of the files mean, but for what a row says.
fn plain(name: &str) -> Config {
    let mut config = Config::default();
    config.name = name.into();
    // Keras writes it as the f32 that it is.
    config.learning_rate = f64::from(0.002_f32).into();
    config.weight_decay = Some(0.01.into());
    config
}

fn with(mut config: Config, set: impl FnOnce(&mut Config)) -> Config {
    set(&mut config);
    config
}

/// Names of files, and what they must give.
fn readable() -> Vec<(&'static str, Config)> {
    let keras2 = || plain("Lion");
    let report = || with(keras2(), |config| config.learning_rate = 0.002.into());
    let scheduled = |schedule: Schedule, decay: f64| {
        with(keras2(), |config| {
            config.learning_rate = schedule.into();
            config.weight_decay = Some(decay.into());
        })
    };
    let single = |value: f32| f64::from(value);
    let cosine = |rate: f32| CosineDecay::new(single(rate), 100.0).unwrap().into();
    let steps = |values: [f64; 3]| PiecewiseConstantDecay::new([2.0, 5.0], values).unwrap().into();
    vec![
        ("keras3/model.keras", plain("lion")),
        ("keras3/deflated.keras", plain("lion")),
        ("keras3/compile_config.json", plain("lion")),
        ("keras3/training_config.json", plain("lion")),
        ("keras3/training_config_text.json", plain("lion")),
        (
            "keras3/by_name.json",
            with(plain("lion_2"), |config| {
                config.learning_rate = single(0.001).into();
                config.weight_decay = None;
            }),
        ),
        (
            "keras3/mixed.keras",
            with(plain("lion_7"), |config| config.dynamic_loss_scale = Some(DynamicLossScale::default())),
        ),
        ("keras3/mixed_layers.json", plain("lion_8")),
        ("keras2/get_config.json", keras2()),
        ("keras2/serialized.json", keras2()),
        ("keras2/loss_scale_fixed.json", with(keras2(), |config| config.loss_scale_factor = Some(1024.0))),
        (
            "keras2/loss_scale_dynamic.json",
            with(keras2(), |config| config.dynamic_loss_scale = Some(DynamicLossScale::default())),
        ),
        ("keras2/model.keras", keras2()),
        ("keras2/training_config.json", keras2()),
        ("keras2/tensors.json", scheduled(cosine(0.002), single(0.01))),
        ("keras2/tensor_lists.json", scheduled(steps([single(0.003), 0.002, 0.001]), single(0.01))),
        ("reports/keras2-config.json", report()),
        ("reports/keras2-custom.json", report()),
        ("reports/tf-keras-module.json", report()),
        (
            "reports/keras2-loss-scale-v3-fixed.json",
            with(report(), |config| config.loss_scale_factor = Some(1024.0)),
        ),
        ("reports/model-config.json", report()),
        ("reports/compile-config.json", report()),
        ("reports/training-config.json", report()),
        ("reports/tensor-values.json", scheduled(cosine(0.001), single(0.01))),
        ("reports/numpy-boundaries.json", scheduled(steps([0.003, 0.002, 0.001]), 0.01)),
        ("reports/weight-decay-false.json", with(report(), |config| config.weight_decay = None)),
        ("reports/byte-order-mark.json", report()),
    ]
}

#[test]
fn what_keras_and_its_users_wrote_is_read() {
    for (name, expected) in readable() {
        let config = Config::read(found(name)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config, expected, "{name}");
        // The text of a file gives what the file gives.
        if let Ok(text) = std::fs::read_to_string(found(name)) {
            assert_eq!(Config::from_json(&text).unwrap(), expected, "{name}");
        }
    }
}

#[test]
fn what_holds_no_optimizer_or_another_one_says_what_to_do() {
    let compiled = "a model holds one if it is saved after compile() and with include_optimizer=True";
    let schedule = "expected a schedule of keras.optimizers.schedules or of lion: write it as one of these, or set it \
                    in the program with Schedule::from_fn";
    let class = "expected Keras's Lion or a LossScaleOptimizer around one: write the config of one of these, and set in \
                 the program, with Lion::builder(), what the class adds";
    for (name, expected) in [
        ("keras3/not_compiled.keras", format!("config.json: compile_config holds no optimizer: {compiled}")),
        ("keras3/get_config.json", format!("compile_config holds no optimizer: {compiled}")),
        ("keras3/compile_config_without.json", format!("the model holds no optimizer: {compiled}")),
        (
            "keras3/custom_schedule.json",
            format!("config.learning_rate is the class \"my_pkg>WarmUp\", which is not Keras's own; {schedule}"),
        ),
        (
            "reports/custom-schedule.json",
            format!("learning_rate is the class \"my_pkg>WarmUp\", which is not Keras's own; {schedule}"),
        ),
        (
            "keras3/function.json",
            format!("config.learning_rate is the function \"by_step\", which is not Keras's own; {schedule}"),
        ),
        ("keras3/lambda.json", format!("config.learning_rate is a lambda, which is not Keras's own; {schedule}")),
        ("keras3/custom_class.json", format!("the optimizer is the class \"MyLion\", which is not Keras's own; {class}")),
        (
            "keras3/custom_lion.json",
            format!("the optimizer is the class \"Custom>Lion\", which is not Keras's own; {class}"),
        ),
        (
            "keras3/custom_inner.json",
            format!("config.inner_optimizer is the class \"MyLion\", which is not Keras's own; {class}"),
        ),
        (
            "keras3/model.h5",
            "is an HDF5 file; expected Keras's JSON or a .keras file. If it is a model's, this writes its JSON: python \
             -c \"import h5py, sys; print(h5py.File(sys.argv[1]).attrs['training_config'])\" FILE"
                .into(),
        ),
        (
            "keras3/momentum.safetensors",
            "is a safetensors file; expected Keras's JSON or a .keras file".into(),
        ),
        (
            "reports/git-lfs.safetensors",
            "is a git-lfs pointer; expected Keras's JSON or a .keras file (git lfs pull fetches the file that it stands \
             for)"
                .into(),
        ),
        (
            "reports/page.safetensors",
            "is an HTML page; expected Keras's JSON or a .keras file (it was downloaded in place of the file: check the \
             address, and whether it asks for a login)"
                .into(),
        ),
        (
            "",
            "is a folder; expected Keras's JSON or a .keras file. From a SavedModel, \
             json.dumps(model.get_compile_config()) writes the JSON in Python"
                .into(),
        ),
    ] {
        let path = found(name);
        let error = Config::read(&path).expect_err(name);
        assert!(matches!(error, Error::File { .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("{}: {expected}", path.display()));
    }
}

thread_local! {
    /// Other tests log on other threads.
    static LOGGED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LOGGED.with_borrow_mut(|logged| logged.push(record.args().to_string()));
    }

    fn flush(&self) {}
}

#[test]
fn the_log_names_where_the_optimizer_was() {
    log::set_logger(&Logger).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    for (name, expected) in [
        ("keras3/model.keras", &["config.json: the optimizer is that of compile_config.optimizer"][..]),
        ("keras3/compile_config.json", &["the optimizer is that of optimizer"]),
        ("keras3/training_config_text.json", &["the optimizer is that of optimizer_config"]),
        ("reports/model-config.json", &["the optimizer is that of compile_config.optimizer"]),
        ("keras2/get_config.json", &[]),
        (
            "keras3/mixed.keras",
            &[
                "config.json: the optimizer is that of compile_config.optimizer",
                "config.json: the model's policy is mixed_float16: a LossScaleOptimizer is around the optimizer, as in \
                 Keras",
            ],
        ),
        (
            "keras3/mixed_layers.json",
            &[
                "the optimizer is that of compile_config.optimizer",
                "layers compute in mixed_float16, and the file does not say whether Keras put a LossScaleOptimizer \
                 around the optimizer: none is used",
            ],
        ),
    ] {
        let path = found(name);
        Config::read(&path).unwrap();
        let expected: Vec<_> = expected.iter().map(|note| format!("{}: {note}", path.display())).collect();
        assert_eq!(LOGGED.take(), expected);
    }
    let text = std::fs::read_to_string(found("keras3/compile_config.json")).unwrap();
    Config::from_json(&text).unwrap();
    assert_eq!(LOGGED.take(), ["the optimizer is that of optimizer"]);
}
