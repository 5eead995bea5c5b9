//! Every option by its name: setting, reading, and the range of its row in the table.

use lion::options::{Row, TABLE, Value};
use lion::schedule::{CosineDecay, InverseSquareRoot};
use lion::{Builder, Config, DynamicLossScale, Error, ErrorKind, Lion, Schedule};
use serde_json::Value as Json;

/// What the test knows of an option by itself.
struct Sample {
    name: &'static str,
    default: Value,
    /// Values that are taken, and what is read back of each.
    inside: Vec<(Value, Value)>,
    /// Values of the right type outside the range, and how an error shows each.
    outside: Vec<(Value, &'static str)>,
    /// How an error shows the range.
    range: &'static str,
    /// A value of another type, how an error shows it, and what it says is allowed.
    wrong: (Value, &'static str, &'static str),
    keras: bool,
    changes: bool,
}

fn same(values: impl IntoIterator<Item = Value>) -> Vec<(Value, Value)> {
    values.into_iter().map(|value| (value.clone(), value)).collect()
}

fn schedule() -> Value {
    Schedule::from(CosineDecay::new(0.5, 10.0).expect("valid")).into()
}

fn samples() -> Vec<Sample> {
    const NUMBER: &str = "a number";
    const RATE: &str = "a number or a serialized schedule";
    const COUNT: &str = "a whole number that is not negative";
    let sample = |name, default: Value| Sample {
        name,
        default,
        inside: Vec::new(),
        outside: Vec::new(),
        range: "",
        wrong: ("much".into(), "\"much\"", NUMBER),
        keras: true,
        changes: false,
    };
    let limit = |name| Sample {
        inside: vec![(1.into(), 1.0.into()), (0.5.into(), 0.5.into()), (Value::None, Value::None)],
        outside: vec![(0.0.into(), "0"), (Value::from(-1), "-1"), (f64::INFINITY.into(), "inf")],
        range: "in (0, inf)",
        ..sample(name, Value::None)
    };
    let rate = |name, default: Value| Sample {
        inside: same([0.25.into(), schedule()]),
        wrong: (true.into(), "true", RATE),
        changes: true,
        ..sample(name, default)
    };
    let switch = |name| Sample {
        inside: same([true.into(), false.into()]),
        wrong: (1.into(), "1", "true or false"),
        ..sample(name, false.into())
    };
    let text = |name, default: Value| Sample {
        inside: same(["another".into()]),
        wrong: (1.into(), "1", "a string"),
        ..sample(name, default)
    };
    vec![
        limit("clipnorm"),
        limit("global_clipnorm"),
        limit("clipvalue"),
        Sample {
            outside: vec![((-1e-3).into(), "-0.001"), (f64::NAN.into(), "NaN"), (1e39.into(), "1e39")],
            range: "in [0, inf)",
            ..rate("learning_rate", 1e-3.into())
        },
        Sample {
            outside: vec![(0.into(), "0"), (1.5.into(), "1.5")],
            range: "in (0, 1]",
            ..rate("beta_1", 0.9.into())
        },
        Sample {
            outside: vec![((-0.5).into(), "-0.5"), (2.into(), "2")],
            range: "in [0, 1]",
            ..rate("beta_2", 0.99.into())
        },
        Sample {
            inside: same([0.0.into(), schedule(), Value::None]),
            outside: vec![(Value::from(-1), "-1")],
            range: "in [0, inf)",
            ..rate("weight_decay", Value::None)
        },
        switch("use_ema"),
        Sample {
            inside: same([0.0.into(), 1.0.into()]),
            outside: vec![(1.5.into(), "1.5")],
            range: "in [0, 1]",
            wrong: (Value::None, "none", NUMBER),
            ..sample("ema_momentum", 0.99.into())
        },
        Sample {
            inside: vec![(1.into(), 1.into()), (7.0.into(), 7.into()), (u64::MAX.into(), u64::MAX.into())],
            outside: vec![(0.into(), "0"), (Value::from(-1), "-1"), (1.5.into(), "1.5")],
            range: "a whole number in [1, 18446744073709551615]",
            wrong: ("x".into(), "\"x\"", "a whole number in [1, 18446744073709551615]"),
            ..sample("ema_overwrite_frequency", Value::None)
        },
        limit("loss_scale_factor"),
        Sample {
            inside: same([2.into(), (1 << 24).into(), Value::None]),
            outside: vec![(1.into(), "1"), (u64::MAX.into(), "18446744073709551615")],
            range: "a whole number in [2, 16777216]",
            wrong: (vec!["x"].into(), "a list of 1", "a whole number in [2, 16777216]"),
            ..sample("gradient_accumulation_steps", Value::None)
        },
        text("name", "lion".into()),
        switch("dynamic_loss_scale"),
        Sample {
            inside: same([vec!["bias$", "norm"].into(), Vec::<String>::new().into()]),
            outside: vec![(vec!["bias"; 257].into(), "a list of 257")],
            range: "a list of at most 256; | joins several in one",
            wrong: ("bias$".into(), "\"bias$\"", "a list of strings"),
            ..sample("exclude_from_weight_decay", Vec::<String>::new().into())
        },
        Sample {
            inside: same(["every_update".into(), "every_call".into()]),
            wrong: ("never".into(), "\"never\"", "one of every_call, every_update"),
            keras: false,
            ..sample("ema_cadence", "every_call".into())
        },
        Sample {
            inside: same(["f32".into(), "f16".into(), "bf16".into(), "q8".into(), Value::None]),
            wrong: ("split".into(), "\"split\"", "one of f32, f16, bf16, q8"),
            keras: false,
            ..sample("momentum_dtype", Value::None)
        },
        Sample {
            inside: same([0.into(), u64::MAX.into(), Value::None]),
            wrong: (Value::from(-1), "-1", COUNT),
            keras: false,
            ..sample("stochastic_rounding", Value::None)
        },
        Sample { keras: false, ..switch("split_master") },
        Sample { keras: false, changes: true, ..switch("cautious_decay") },
        Sample {
            inside: same(["lr".into(), "relative:0.001".into(), "corrected:0.5".into()]),
            wrong: (
                "relative:0".into(),
                "\"relative:0\"",
                "lr, relative:TO or corrected:TO, with TO in (0, inf)",
            ),
            keras: false,
            changes: true,
            ..sample("decay_scale", "lr".into())
        },
        Sample { inside: vec![(256.into(), 256.0.into())], ..limit("initial_scale") },
        Sample {
            inside: same([0.into(), 100.into()]),
            wrong: (Value::from(-1), "-1", COUNT),
            ..sample("dynamic_growth_steps", Value::None)
        },
        text("loss_scale_name", Value::None),
    ]
}

/// A row without a sample fails here, and so does a sample without a row.
#[test]
fn every_row_makes_its_option() {
    let samples = samples();
    let names: Vec<_> = samples.iter().map(|sample| sample.name).collect();
    assert_eq!(TABLE.iter().map(|row| row.name).collect::<Vec<_>>(), names);
    for (row, sample) in TABLE.iter().zip(samples) {
        let name = row.name;
        assert_eq!((row.is_known_to_keras(), row.changes), (sample.keras, sample.changes), "{name}");
        assert_eq!(row.default(), sample.default, "{name}");
        assert_eq!(Config::default().get(name).unwrap(), sample.default);
        assert!(!sample.inside.is_empty());
        for (given, back) in sample.inside {
            let mut config = Config::default();
            config.set(name, given.clone()).unwrap();
            assert_eq!(config.get(name).unwrap(), back);
            config.check().unwrap();
            assert_eq!(config == Config::default(), back == sample.default, "{name} is {given}");
            assert_eq!(Lion::builder().set(name, given.clone()), Builder::from(config.clone()));
            assert_eq!(Lion::from_config(config.clone()).unwrap().config(), &config);
            json_holds(row, &config);
            changes_if_it_may(row, given, config);
        }
        for (given, shown) in sample.outside {
            let message = refused(name, given);
            assert!(message.starts_with(&format!("{name} is {shown}, ")), "{message}");
            assert!(message.contains(sample.range), "{message}");
        }
        let (given, shown, allowed) = sample.wrong;
        assert_eq!(refused(name, given), format!("{name} is {shown}, and must be {allowed}"));
    }
}

/// The message, which the config, the builder and an optimizer that is built give alike, and nothing is written.
fn refused(name: &str, value: Value) -> String {
    let mut config = Config::default();
    let error = config.set(name, value.clone()).unwrap_err();
    assert_eq!((config, error.kind()), (Config::default(), ErrorKind::Value));
    let message = error.to_string();
    let builder = Lion::builder().set(name, value.clone()).learning_rate(0.5);
    assert_eq!(builder.check().unwrap_err().to_string(), message);
    assert_eq!(builder.build().unwrap_err().to_string(), message);
    let mut optimizer = Lion::builder().build().unwrap();
    assert_eq!(optimizer.set(name, value).unwrap_err().to_string(), message);
    assert_eq!(optimizer.config(), &Config::default());
    message
}

/// Our form holds every option; Keras's form all that Keras has, and is refused where Keras would compute something
/// else.
fn json_holds(row: &Row, config: &Config) {
    assert_eq!(&Config::from_json(&config.to_lion_json().unwrap()).unwrap(), config);
    let value = config.get(row.name).unwrap();
    let is_default = value == row.default();
    let lacks = !row.is_known_to_keras() && !is_default
        || matches!(value, Value::Schedule(_)) && row.name != "learning_rate";
    match config.to_json() {
        Err(error) => {
            assert!(lacks, "{error}");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().starts_with(&format!("{} is ", row.name)), "{error}");
        }
        Ok(text) => {
            assert!(!lacks, "{} is {value}", row.name);
            let written: Json = serde_json::from_str(&text).unwrap();
            assert_eq!(written["config"].get("lion"), None);
            // Keras has a method for it, and no key.
            let is_left_out = row.name == "exclude_from_weight_decay" && !is_default;
            assert_eq!(&Config::from_json(&text).unwrap() == config, !is_left_out, "{text}");
        }
    }
}

fn changes_if_it_may(row: &Row, given: Value, config: Config) {
    let mut optimizer = Lion::builder().build().unwrap();
    match optimizer.set(row.name, given) {
        Ok(()) => assert_eq!(optimizer.config(), &config),
        Err(error) => {
            assert!(!row.changes && matches!(error, Error::FixedOption { .. }), "{error}");
            assert_eq!(
                error.to_string(),
                format!(
                    "{} is {} and cannot change after build; learning_rate, beta_1, beta_2, weight_decay, \
                     cautious_decay, decay_scale can change",
                    row.name,
                    row.default()
                )
            );
            assert_eq!(optimizer.config(), &Config::default());
        }
    }
    assert_eq!(optimizer.config() == &config, row.changes || config == Config::default());
}

#[test]
fn a_wrong_pattern_is_named() {
    let expected = "exclude_from_weight_decay is \"(\", which is not a usable regular expression: ";
    let message = refused("exclude_from_weight_decay", vec!["bias$", "("].into());
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn wrong_names_have_their_neighbours_named() {
    let every = TABLE.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
    for (name, nearest) in [
        ("learning_rte", "learning_rate"),
        ("beta1", "beta_1, beta_2"),
        ("clipnorms", "clipnorm"),
        ("Weight_Decay", "weight_decay"),
        ("momentum", "ema_momentum"),
        ("lr", &every),
        ("", &every),
    ] {
        let expected = format!("option {name:?} does not exist; nearest: {nearest}");
        let mut config = Config::default();
        for error in [
            config.set(name, 1).unwrap_err(),
            config.get(name).unwrap_err(),
            Lion::builder().set(name, 1).build().unwrap_err(),
            Lion::builder().build().unwrap().set(name, 1).unwrap_err(),
        ] {
            assert_eq!((error.to_string(), error.kind()), (expected.clone(), ErrorKind::Name));
        }
        assert_eq!(config, Config::default());
    }
    let long = config_error(&"x".repeat(1 << 20));
    assert!(long.len() < 600 && long.lines().count() == 1);
}

fn config_error(name: &str) -> String {
    Config::default().set(name, 1).unwrap_err().to_string()
}

/// All or nothing: what one option makes wrong is the error of the whole, also beside right ones.
#[test]
fn options_that_exclude_each_other_are_found_by_the_check() {
    let builder = Lion::builder().set("clipnorm", 1).set("clipvalue", 2).set("learning_rate", 0.5);
    let expected = "clipnorm is 1 and clipvalue is 2, and at most one of clipnorm, global_clipnorm and clipvalue may \
                    be set";
    assert_eq!(builder.check().unwrap_err().to_string(), expected);
    assert!(builder.set("clipnorm", Value::None).build().is_ok());

    let mut optimizer = Lion::builder().build().unwrap();
    let mut config = Config::default();
    config.set("beta_1", 0.5).unwrap();
    config.set("use_ema", true).unwrap();
    assert_eq!(optimizer.set_config(config.clone()).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(optimizer.config(), &Config::default());
    config.use_ema = false;
    optimizer.set_config(config.clone()).unwrap();
    assert_eq!(optimizer.config(), &config);
}

#[test]
fn the_numbers_of_a_loss_scale_switch_it_on_and_stay() {
    let mut config = Config::default();
    config.set("initial_scale", 256).unwrap();
    config.set("dynamic_loss_scale", true).unwrap();
    config.set("dynamic_growth_steps", 7).unwrap();
    let mut scale = DynamicLossScale::default();
    (scale.initial_scale, scale.dynamic_growth_steps) = (256.0, 7);
    assert_eq!(config.dynamic_loss_scale, Some(scale.clone()));
    config.set("initial_scale", Value::None).unwrap();
    scale.initial_scale = 32_768.0;
    assert_eq!(config.dynamic_loss_scale, Some(scale));
    config.set("dynamic_loss_scale", false).unwrap();
    assert_eq!(config, Config::default());
}

/// The object `lion` of a file is checked as the rest is.
#[test]
fn what_is_wrong_in_the_object_lion_is_named() {
    for (text, expected) in [
        (r#"{"lion": 1}"#, "lion is 1, and must be an object"),
        (r#"{"lion": null}"#, "lion is null, and must be an object"),
        (
            r#"{"lion": {"momentum_dtype": "f8"}}"#,
            r#"lion.momentum_dtype is "f8", and must be one of f32, f16, bf16, q8"#,
        ),
        (
            r#"{"lion": {"exclude_from_weight_decay": [1]}}"#,
            "lion.exclude_from_weight_decay is a list of 1, and must be a list of strings",
        ),
        (
            r#"{"lion": {"use_ema": true}}"#,
            "lion.use_ema is not a known key; known: exclude_from_weight_decay, ema_cadence, momentum_dtype, stochastic_rounding, split_master, cautious_decay, decay_scale",
        ),
    ] {
        assert_eq!(Config::from_json(text).unwrap_err().to_string(), expected);
    }
}

#[test]
fn values_come_from_json() {
    let own = Schedule::from(InverseSquareRoot::noam(512.0, 4000.0).expect("valid"));
    let mut config = Config::default();
    config.learning_rate = own.clone().into();
    let file: Json = serde_json::from_str(&config.to_lion_json().unwrap()).unwrap();
    for (text, expected) in [
        ("null", Value::None),
        ("true", true.into()),
        ("-3", Value::from(-3)),
        ("18446744073709551615", u64::MAX.into()),
        ("1e-4", 1e-4.into()),
        (r#""bf16""#, "bf16".into()),
        (r#"["a", "b"]"#, vec!["a", "b"].into()),
        (&file["config"]["learning_rate"].to_string(), own.into()),
    ] {
        assert_eq!(Value::from_json(text).unwrap(), expected);
    }
    for text in ["[1]", "{}", "nul", r#"{"class_name": "Mine", "config": {}}"#] {
        assert!(Value::from_json(text).is_err(), "{text}");
    }
}

#[test]
fn codes_of_errors_stay() {
    let found: Vec<_> = ErrorKind::ALL.iter().map(|kind| (kind.code(), kind.name())).collect();
    assert_eq!(
        found,
        [
            (1, "value"),
            (2, "name"),
            (3, "format"),
            (4, "tensor"),
            (5, "step"),
            (6, "state"),
            (7, "io"),
            (8, "memory"),
            (9, "unsupported"),
        ]
    );
    let backend = "sse9".parse::<lion::Dtype>().map(drop).map_err(Error::from).unwrap_err();
    for (error, kind) in [
        (Config::read("/nowhere/at/all").unwrap_err(), ErrorKind::Io),
        (Config::from_json("{").unwrap_err(), ErrorKind::Format),
        (backend, ErrorKind::Name),
        (Error::OutOfMemory { what: "elements", elements: 1 }, ErrorKind::Memory),
    ] {
        assert_eq!((error.kind(), error.code()), (kind, kind.code()), "{error}");
    }
}

/// Printers of chains, such as anyhow's and a Python traceback, say everything once.
#[test]
fn no_cause_is_printed_twice() {
    let io = || std::io::Error::other("the cause");
    let kernels = || "f8".parse::<lion::Dtype>().unwrap_err();
    let autotune = lion_autotune::Error::File { path: "a".into(), action: "read", reason: io() };
    let errors: [Box<dyn std::error::Error>; 5] = [
        Box::new(Error::Io { file: "a".into(), tensor: None, action: "cannot open", reason: io() }),
        Box::new(Error::Tensor { name: "a".into(), reason: kernels() }),
        Box::new(Error::Kernels(kernels())),
        Box::new(autotune),
        Box::new(lion_autotune::Error::Kernels(kernels())),
    ];
    for error in errors {
        let chain = std::iter::successors(error.source(), |cause| cause.source());
        let printed = chain.fold(error.to_string(), |printed, cause| format!("{printed}: {cause}"));
        assert_eq!(printed.matches("the cause").count() + printed.matches("\"f8\"").count(), 1, "{printed}");
    }
}

#[test]
fn options_by_json() {
    let mut config = Config::default();
    config.set_json(r#"{"beta_2": 0.5, "exclude_from_weight_decay": ["bias$"], "use_ema": true}"#).unwrap();
    let mut one_by_one = Config::default();
    one_by_one.set("beta_2", 0.5).unwrap();
    one_by_one.set("exclude_from_weight_decay", vec!["bias$"]).unwrap();
    one_by_one.set("use_ema", true).unwrap();
    assert_eq!(config, one_by_one);
    config.set_json("{}").unwrap();
    for (text, expected) in [
        (r#"{"beta_1": 0.5, "beta_2": -1}"#, "beta_2 is -1, and must be in [0, 1]"),
        (r#"{"beta": 0.5}"#, r#"option "beta" does not exist; nearest: beta_1, beta_2"#),
        (r#"{"beta_1": ["1"]}"#, "beta_1 is a list of 1, and must be a number or a serialized schedule"),
        (r#"1"#, "the text is 1, and must be an object"),
        (r#"{"beta_1": 0.5, "beta_1": 0.5}"#, "beta_1: duplicate key at line 1 column 24"),
    ] {
        assert_eq!(config.set_json(text).unwrap_err().to_string(), expected);
        assert_eq!(config, one_by_one);
    }
}
