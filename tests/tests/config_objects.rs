//! Keras's JSON beyond the plain config: files that contain an optimizer, wrapped values, custom classes, and configs
//! that Keras cannot load.

use lion::schedule::CosineDecay;
use lion::{Config, Hyperparameter};
use serde_json::{Value, json};

fn read(config: Value) -> Config {
    Config::from_json(&config.to_string()).unwrap()
}

fn refused(text: &str) -> String {
    let message = Config::from_json(text).unwrap_err().to_string();
    assert!(message.lines().count() == 1 && message.len() < 400, "{message}");
    message
}

/// Keras takes these for the dicts that they are in the file, and fails in the first step.
#[test]
fn what_keras_cannot_load_is_written_only_for_lion() {
    let cosine = || Hyperparameter::from(CosineDecay::new(0.1, 10.0).unwrap());
    type Set = fn(&mut Config, Hyperparameter);
    let arguments: [(&str, Set); 3] = [
        ("weight_decay", |config, value| config.weight_decay = Some(value)),
        ("beta_1", |config, value| config.beta_1 = value),
        ("beta_2", |config, value| config.beta_2 = value),
    ];
    for (name, set) in arguments {
        let mut config = Config::default();
        set(&mut config, cosine());
        let expected =
            format!("{name} is a schedule, which Keras cannot load; Config::to_lion_json writes it for lion");
        for refused in [config.to_json(), config.to_bare_json()] {
            assert_eq!(refused.unwrap_err().to_string(), expected);
        }
        assert_eq!(Config::from_json(&config.to_lion_json().unwrap()).unwrap(), config);
    }
    // The schedule of the learning rate it makes an instance of.
    let mut config = Config::default();
    config.learning_rate = cosine();
    assert_eq!(config.to_json().unwrap(), config.to_lion_json().unwrap());
}

/// Whatever marks a class or a function as that of another program.
#[test]
fn what_is_not_keras_s_own_is_named() {
    for (object, expected) in [
        (r#"{"class_name": "Lion", "module": null}"#, r#"the class "Lion""#),
        (r#"{"class_name": "Lion", "module": "mine"}"#, r#"the class "Lion" of the module "mine""#),
        (
            r#"{"class_name": "Lion", "module": "keras_hub.lion"}"#,
            r#"the class "Lion" of the module "keras_hub.lion""#,
        ),
        (r#"{"class_name": "Lion", "registered_name": "mine>Lion"}"#, r#"the class "mine>Lion""#),
        (r#"{"class_name": "mine>Lion"}"#, r#"the class "mine>Lion""#),
        (r#"{"class_name": "Custom>MyLion", "module": null}"#, r#"the class "Custom>MyLion""#),
        (r#"{"class_name": "function", "config": "f", "module": "builtins"}"#, r#"the function "f""#),
        (r#"{"class_name": "function", "registered_name": "mine>f"}"#, r#"the function "mine>f""#),
        (r#"{"class_name": "__lambda__", "config": {"value": []}}"#, "a lambda"),
    ] {
        let start = |name: &str| format!("{name} is {expected}, which is not Keras's own; expected ");
        let message = refused(object);
        assert!(message.starts_with(&start("the optimizer")), "{message}");
        let message = refused(&format!("{{\"optimizer\": {object}}}"));
        assert!(message.starts_with(&start("optimizer")), "{message}");
        let message = refused(&format!("{{\"inner_optimizer\": {object}}}"));
        assert!(message.starts_with(&start("inner_optimizer")), "{message}");
        for key in ["learning_rate", "weight_decay", "beta_1"] {
            let message = refused(&format!("{{\"{key}\": {object}}}"));
            assert!(message.starts_with(&start(key)) && message.contains("Schedule::from_fn"), "{message}");
        }
    }
}

/// In any place of a number or a list.
#[test]
fn values_in_keras_s_wrappers() {
    let wrapped = |value: Value, dtype: &str| {
        [
            json!({"class_name": "__tensor__", "config": {"value": value, "dtype": dtype}}),
            json!({"class_name": "__numpy__", "config": {"value": value, "dtype": dtype}}),
        ]
    };
    let numbers = [
        "learning_rate",
        "beta_1",
        "beta_2",
        "weight_decay",
        "clipnorm",
        "ema_momentum",
        "loss_scale_factor",
    ];
    for (dtype, expected) in [
        ("float64", 0.3),
        ("float32", f64::from(0.3_f32)),
        ("float16", half::f16::from_f64(0.3).to_f64()),
        ("bfloat16", half::bf16::from_f64(0.3).to_f64()),
    ] {
        for (key, value) in
            numbers.into_iter().flat_map(|key| wrapped(json!(0.3), dtype).map(|value| (key, value)))
        {
            assert_eq!(read(json!({ key: value })), read(json!({ key: expected })), "{key}, {dtype}");
        }
    }
    for dtype in ["int32", "int64", "uint8"] {
        for key in ["ema_overwrite_frequency", "gradient_accumulation_steps", "clipvalue"] {
            for value in wrapped(json!(7), dtype) {
                assert_eq!(read(json!({ key: value })), read(json!({ key: 7 })), "{key}");
            }
        }
    }
    let [tensor, array] = wrapped(json!(true), "bool");
    assert_eq!(read(json!({"use_ema": tensor, "jit_compile": array})), read(json!({"use_ema": true})));

    let steps = |boundaries: Value, values: Value| {
        json!({"learning_rate": {"class_name": "PiecewiseConstantDecay",
            "config": {"boundaries": boundaries, "values": values}}})
    };
    let plain = read(steps(json!([2, 5]), json!([0.5, 0.25, 0.125])));
    let [first, ..] = wrapped(json!(2), "int64");
    let [boundaries, ..] = wrapped(json!([2, 5]), "int64");
    let [.., values] = wrapped(json!([0.5, 0.25, 0.125]), "float32");
    let tuple = json!({"class_name": "__tuple__", "items": [first, 5]});
    for boundaries in [json!([first, 5]), boundaries, tuple] {
        assert_eq!(read(steps(boundaries, values.clone())), plain);
    }
    let inner = json!({"class_name": "Lion"});
    let [scale, ..] = wrapped(json!(256.0), "float32");
    assert_eq!(
        read(json!({"inner_optimizer": inner, "initial_scale": scale})),
        read(json!({"inner_optimizer": inner, "initial_scale": 256.0}))
    );

    for (value, expected) in [
        (
            json!({"value": 1.0, "dtype": "complex64"}),
            "beta_1.config.dtype is \"complex64\", and must be float16, bfloat16, float32, float64, bool or an integer \
             type",
        ),
        (
            json!({"value": "1", "dtype": "float32"}),
            "beta_1.config.value is \"1\", and must be a number of its dtype",
        ),
        (
            json!({"value": 1.5, "dtype": "int32"}),
            "beta_1.config.value is 1.5, and must be a number of its dtype",
        ),
        (
            json!({"value": [0.5, true], "dtype": "float32"}),
            "beta_1.config.value[1] is true, and must be a number of its dtype",
        ),
        (
            json!({"value": [0.5], "dtype": "float32"}),
            "beta_1 is a list of 1, and must be a number or a serialized schedule",
        ),
        (json!({"value": 1.0}), "beta_1.config.dtype is missing, and must be a string"),
        (
            json!({"value": 1.0, "dtype": "float32", "shape": []}),
            "beta_1.config.shape is not a known key; known: value, dtype",
        ),
        (Value::Null, "beta_1.config is null, and must be an object"),
    ] {
        let text = json!({"beta_1": {"class_name": "__tensor__", "config": value}}).to_string();
        assert_eq!(refused(&text), expected);
    }
}

/// Python's `False` is its 0.
#[test]
fn a_false_in_place_of_a_number_is_off() {
    let keys = [
        "weight_decay",
        "clipnorm",
        "global_clipnorm",
        "clipvalue",
        "ema_overwrite_frequency",
        "gradient_accumulation_steps",
    ];
    for key in keys {
        assert_eq!(read(json!({ key: false })), Config::default(), "{key}");
    }
    for key in ["learning_rate", "beta_1", "ema_momentum", "loss_scale_factor"] {
        assert!(
            refused(&json!({ key: false }).to_string()).starts_with(&format!("{key} is false, and must be "))
        );
    }
}

/// In whatever holds an optimizer, errors name all keys that lead to them.
#[test]
fn an_optimizer_within_something_else() {
    let lion = json!({"class_name": "Lion", "config": {"beta_1": 0.5}});
    let expected = read(lion.clone());
    let bare = json!({"beta_1": 0.5});
    for found in [&lion, &bare] {
        for holder in [
            json!({"optimizer": found, "loss": "mse"}),
            json!({"optimizer_config": found}),
            json!({"training_config": {"optimizer_config": found}}),
            json!({"training_config": json!({"optimizer_config": found}).to_string()}),
            json!({"class_name": "Lion", "config": {"layers": []}, "compile_config": {"optimizer": found}}),
            json!(json!({"optimizer_config": found}).to_string()),
        ] {
            assert_eq!(read(holder.clone()), expected, "{holder}");
        }
    }
    let compiled = "a model holds one if it is saved after compile() and with include_optimizer=True";
    for (text, expected) in [
        (
            json!({"compile_config": {"optimizer": {"class_name": "Adam"}}}),
            r#"compile_config.optimizer.class_name is "Adam", and must be "Lion" or "LossScaleOptimizer""#
                .into(),
        ),
        (
            json!({"optimizer": "adam"}),
            r#"optimizer.class_name is "adam", and must be "Lion" or "LossScaleOptimizer""#.into(),
        ),
        (json!({"optimizer": {"beta_1": 2}}), "optimizer.beta_1 is 2, and must be in (0, 1]".into()),
        (json!({"optimizer": 3}), "optimizer is 3, and must be an object".into()),
        (
            json!({"training_config": "{\"optimizer_config\": }"}),
            "training_config: optimizer_config: expected value at line 1 column 22".into(),
        ),
        (json!({"optimizer": null}), format!("optimizer holds no optimizer: {compiled}")),
        (json!({"compile_config": {}}), format!("compile_config holds no optimizer: {compiled}")),
        (
            json!({"loss": "mse", "weighted_metrics": null}),
            format!("the model holds no optimizer: {compiled}"),
        ),
        (
            json!({"class_name": "Sequential", "config": {"layers": []}}),
            format!("the model holds no optimizer: {compiled}"),
        ),
    ] {
        assert_eq!(refused(&text.to_string()), expected);
    }
    // As many texts within texts as a file may hold.
    let mut nested = json!({"optimizer": {}}).to_string();
    for _ in 0..12 {
        nested = json!({ "optimizer": nested }).to_string();
    }
    assert!(refused(&nested).ends_with(compiled));
}

#[test]
fn a_byte_order_mark_is_no_text() {
    assert_eq!(Config::from_json("\u{feff}{\"beta_1\": 0.5}").unwrap(), read(json!({"beta_1": 0.5})));
    assert!(refused("\u{feff}").starts_with("not valid JSON"));
    assert!(refused("\u{feff}\u{feff}{}").starts_with("not valid JSON"));
}
