//! Configs and their Keras JSON.

use lion::schedule::{
    Constant, CosineDecay, DecayShape, InverseSquareRoot, LinearWarmup, OneCycle, WarmupStableDecay,
};
use lion::{Config, DynamicLossScale, Error, Hyperparameter, Schedule};
use serde_json::{Value, json};

fn read(config: Value) -> Config {
    Config::from_json(&config.to_string()).unwrap()
}

fn refused(text: &str) -> String {
    let message = Config::from_json(text).unwrap_err().to_string();
    assert!(message.lines().count() == 1 && message.len() < 400, "{message}");
    message
}

#[test]
fn defaults_are_keras_s() {
    let config = Config::from_json("{}").unwrap();
    assert_eq!(config, Config::default());
    let golden: Value = serde_json::from_str(include_str!("../golden/configs.json")).unwrap();
    let mut keras = golden["configs"][0]["bare"].clone();
    // Keras has made it an f32.
    assert_eq!(read(keras.clone()).learning_rate.at(0), config.learning_rate.at(0));
    keras["learning_rate"] = json!(0.001);
    assert_eq!(serde_json::from_str::<Value>(&config.to_bare_json().unwrap()).unwrap(), keras);

    let scale = DynamicLossScale::default();
    assert_eq!((scale.initial_scale, scale.dynamic_growth_steps), (32_768.0, 2000));
}

#[test]
fn what_keras_writes_comes_back() {
    let golden: Value = serde_json::from_str(include_str!("../golden/configs.json")).unwrap();
    for row in golden["configs"].as_array().unwrap() {
        let config = read(row["wrapped"].clone());
        assert_eq!(config, read(row["bare"].clone()));
        let wrapped = config.to_json().unwrap();
        assert_eq!(Config::from_json(&wrapped).unwrap(), config);
        if row["same"] == true {
            assert_eq!(serde_json::from_str::<Value>(&wrapped).unwrap(), row["wrapped"]);
            let bare = config.to_bare_json().unwrap();
            assert_eq!(serde_json::from_str::<Value>(&bare).unwrap(), row["bare"]);
        }
    }
}

#[test]
fn where_keras_takes_0_as_off() {
    let off = read(json!({
        "clipnorm": 0, "gradient_accumulation_steps": 0, "use_ema": true, "ema_overwrite_frequency": 0
    }));
    let on = (off.clipnorm, off.gradient_accumulation_steps, off.ema_overwrite_frequency);
    assert_eq!(on, (None, None, None));
    assert_eq!(read(json!({"clipvalue": -0.0})).clipvalue, None);
    assert_eq!(read(json!({"global_clipnorm": 0.0})).global_clipnorm, None);
    // Here 0 is a number like others.
    assert_eq!(read(json!({"weight_decay": 0})).weight_decay, Some(Hyperparameter::Constant(0.0)));
    assert_eq!(read(json!({"learning_rate": 0})).learning_rate, Hyperparameter::Constant(0.0));
    assert_eq!(refused(r#"{"loss_scale_factor": 0}"#), "loss_scale_factor is 0, and must be in (0, inf)");
}

#[test]
fn what_else_real_files_hold() {
    // Keras counts with 2.0 as with 2, does not look at an optimizer's case, and leaves out what is at its default.
    assert_eq!(read(json!({"gradient_accumulation_steps": 2.0})).gradient_accumulation_steps, Some(2));
    let wrapped = json!({
        "module": "keras.src.optimizers.lion", "class_name": "lion", "config": null,
        "registered_name": "Lion", "shared_object_id": 1234,
    });
    assert_eq!(read(wrapped), Config::default());
    // Older versions had these.
    assert_eq!(read(json!({"decay": 0.1, "name": null})), Config::default());
    let older = read(json!({
        "inner_optimizer": {"class_name": "Lion", "config": {"loss_scale_factor": 8.0}},
        "dynamic": true, "initial_scale": 256, "weight_decay": null, "use_ema": false, "ema_momentum": 0.99,
    }));
    assert_eq!(older.loss_scale_factor, None);
    assert_eq!(older.dynamic_loss_scale.unwrap().initial_scale, 256.0);
}

#[test]
fn the_house_s_own_schedules_come_back() -> Result<(), Error> {
    let schedules: [Schedule; 6] = [
        Constant::new(0.1)?.into(),
        LinearWarmup::new(9, LinearWarmup::new(5, CosineDecay::new(0.1, 10.5)?)?)?
            .initial_learning_rate(1e-4)?
            .into(),
        WarmupStableDecay::new(0.1, 1.0, 2.0, 3.0)?.end_learning_rate(0.05)?.into(),
        WarmupStableDecay::new(0.1, 1.0, 2.0, 3.0)?.shape(DecayShape::OneMinusSqrt).into(),
        InverseSquareRoot::noam(512.0, 4000.0)?.into(),
        OneCycle::new(0.1, 100.0)?.pct_start(0.2)?.div_factor(10.0)?.final_div_factor(100.0)?.into(),
    ];
    for schedule in schedules {
        let mut config = Config::default();
        config.weight_decay = Some(schedule.clone().into());
        config.learning_rate = schedule.clone().into();
        assert_eq!(Config::from_json(&config.to_lion_json()?)?, config);
        // Keras has none of them.
        let expected = format!(
            "learning_rate is the schedule {}, which Keras cannot load; Config::to_lion_json writes it for lion",
            schedule.class_name()
        );
        for refused in [config.to_json(), config.to_bare_json()] {
            assert_eq!(refused.unwrap_err().to_string(), expected);
        }
    }
    Ok(())
}

/// Keras ignores them, and writes them again.
#[test]
fn warmup_steps_without_a_target_stay_in_the_file() {
    let decay =
        json!({"initial_learning_rate": 0.5, "decay_steps": 10, "warmup_target": null, "warmup_steps": 7});
    let config = read(json!({"learning_rate": {"class_name": "CosineDecay", "config": decay}}));
    assert_eq!(config.learning_rate.at(0), 0.5);
    let written: Value = serde_json::from_str(&config.to_bare_json().unwrap()).unwrap();
    assert_eq!(written["learning_rate"]["config"]["warmup_steps"], 7);
}

#[test]
fn closures_stay_in_the_program() {
    let mut config = Config::default();
    config.learning_rate = LinearWarmup::new(5, Schedule::from_fn(|_| 0.5)).unwrap().into();
    assert_eq!(config, config.clone());
    assert_eq!(config.learning_rate.at(5), 0.5);
    // What two closures do cannot be compared.
    let half = Schedule::from_fn(|_| 0.5);
    assert_eq!(half, half.clone());
    assert_ne!(half, Schedule::from_fn(|_| 0.5));
    assert!(format!("{half:?}").contains("ScheduleFn(..)"));
    let message = config.to_json().unwrap_err().to_string();
    assert_eq!(message, "learning_rate.after is a closure, which cannot be written to a file");
    let text = r#"{"learning_rate": {"module": "lion", "class_name": "ScheduleFn", "config": {}}}"#;
    assert_eq!(
        refused(text),
        "learning_rate.config is a closure, and must be a schedule that a file can hold"
    );
}

#[test]
fn numbers_come_back_to_the_last_bit() {
    for number in [0.1, 1e-3, 0.0010000000474974513, 5e-324, 1.7976931348623157e308, 2.2250738585072014e-308]
    {
        let mut config = Config::default();
        // Any range would do.
        config.learning_rate = number.into();
        match config.to_json() {
            Ok(text) => assert_eq!(Config::from_json(&text).unwrap(), config, "{number:e}"),
            Err(_) => assert!(number > 1e38),
        }
    }
}

#[test]
fn every_argument_has_its_range() {
    for (text, expected) in [
        (r#"{"learning_rate": -1}"#, "learning_rate is -1, and must be in [0, inf)"),
        (r#"{"learning_rate": 1e39}"#, "learning_rate is 1e39, which is inf as f32, and must be in [0, inf)"),
        (r#"{"beta_1": 0}"#, "beta_1 is 0, and must be in (0, 1]"),
        (r#"{"beta_1": 1e-60}"#, "beta_1 is 1e-60, which is 0 as f32, and must be in (0, 1]"),
        (r#"{"beta_1": 1.000001}"#, "beta_1 is 1.000001, and must be in (0, 1]"),
        (r#"{"beta_2": -0.1}"#, "beta_2 is -0.1, and must be in [0, 1]"),
        (r#"{"beta_2": 1.1}"#, "beta_2 is 1.1, and must be in [0, 1]"),
        (r#"{"weight_decay": -1}"#, "weight_decay is -1, and must be in [0, inf)"),
        (r#"{"clipnorm": -1}"#, "clipnorm is -1, and must be in (0, inf)"),
        (r#"{"clipvalue": -1}"#, "clipvalue is -1, and must be in (0, inf)"),
        (r#"{"global_clipnorm": -1}"#, "global_clipnorm is -1, and must be in (0, inf)"),
        (
            r#"{"clipnorm": 0, "clipvalue": 1.5}"#,
            "clipnorm is 0 and clipvalue is 1.5, and at most one of clipnorm, global_clipnorm and clipvalue may be set",
        ),
        (r#"{"ema_momentum": 1.5}"#, "ema_momentum is 1.5, and must be in [0, 1]"),
        (
            r#"{"ema_overwrite_frequency": -1}"#,
            "ema_overwrite_frequency is -1, and must be a whole number in [1, 18446744073709551615]",
        ),
        (r#"{"loss_scale_factor": -2}"#, "loss_scale_factor is -2, and must be in (0, inf)"),
        (
            r#"{"gradient_accumulation_steps": 1}"#,
            "gradient_accumulation_steps is 1, and must be a whole number in [2, 16777216]",
        ),
        (
            r#"{"gradient_accumulation_steps": 2.5}"#,
            "gradient_accumulation_steps is 2.5, and must be a whole number in [2, 16777216]",
        ),
        (
            r#"{"gradient_accumulation_steps": 1e12}"#,
            "gradient_accumulation_steps is 1000000000000.0, and must be a whole number in [2, 16777216]",
        ),
        (
            r#"{"inner_optimizer": {"class_name": "Lion", "config": {"beta_2": 2}}}"#,
            "inner_optimizer.config.beta_2 is 2, and must be in [0, 1]",
        ),
        (
            r#"{"inner_optimizer": {"class_name": "Lion"}, "initial_scale": 0}"#,
            "initial_scale is 0, and must be in (0, inf)",
        ),
        (
            r#"{"inner_optimizer": {"class_name": "Lion"}, "dynamic_growth_steps": -1}"#,
            "dynamic_growth_steps is -1, and must be a whole number that is not negative",
        ),
        (
            r#"{"inner_optimizer": {"class_name": "Lion"}, "clipnorm": 1}"#,
            "clipnorm is 1, and must be set in inner_optimizer instead",
        ),
        (
            r#"{"inner_optimizer": {"class_name": "Lion"}, "dynamic": false}"#,
            "initial_scale is missing, and must be a number",
        ),
        (
            r#"{"inner_optimizer": {"class_name": "Lion"}, "dynamic": false, "initial_scale": 0}"#,
            "initial_scale is 0, and must be in (0, inf)",
        ),
        (
            r#"{"learning_rate": {"class_name": "CosineDecay", "config":
                {"initial_learning_rate": 0.1, "decay_steps": 0}}}"#,
            "learning_rate.config.decay_steps is 0, and must be in (0, inf)",
        ),
    ] {
        assert_eq!(refused(text), expected);
    }
    let mut config = Config::default();
    config.clipnorm = Some(0.0);
    assert_eq!(config.to_json().unwrap_err().to_string(), "clipnorm is 0, and must be in (0, inf)");
    config.clipnorm = None;
    config.ema_overwrite_frequency = Some(0);
    assert_eq!(
        config.check().unwrap_err().to_string(),
        "ema_overwrite_frequency is 0, and must be a whole number in [1, 18446744073709551615]"
    );
    config.ema_overwrite_frequency = None;
    config.beta_1 = f64::NAN.into();
    assert_eq!(config.check().unwrap_err().to_string(), "beta_1 is NaN, and must be in (0, 1]");
}

#[test]
fn wrong_types_keys_and_classes_are_named() {
    for (text, expected) in [
        ("[]", "the config is a list of 0, and must be an object"),
        ("3", "the config is 3, and must be an object"),
        (
            r#"{"learning_rate": "fast"}"#,
            r#"learning_rate is "fast", and must be a number or a serialized schedule"#,
        ),
        (
            r#"{"learning_rate": null}"#,
            "learning_rate is null, and must be a number or a serialized schedule",
        ),
        (r#"{"beta_1": true}"#, "beta_1 is true, and must be a number or a serialized schedule"),
        (r#"{"clipnorm": "1"}"#, r#"clipnorm is "1", and must be a number"#),
        (r#"{"use_ema": 1}"#, "use_ema is 1, and must be true or false"),
        (r#"{"use_ema": null}"#, "use_ema is null, and must be true or false"),
        (r#"{"ema_momentum": null}"#, "ema_momentum is null, and must be a number"),
        (r#"{"name": 3}"#, "name is 3, and must be a string"),
        (
            r#"{"momentum": 0.9}"#,
            "momentum is not a known key; known: clipnorm, global_clipnorm, clipvalue, \
             learning_rate, beta_1, beta_2, weight_decay, use_ema, ema_momentum, ema_overwrite_frequency, \
             loss_scale_factor, gradient_accumulation_steps, name, decay, jit_compile, is_legacy_optimizer",
        ),
        (r#"{"jit_compile": 1}"#, "jit_compile is 1, and must be true or false"),
        (r#"{"weight_decay": true}"#, "weight_decay is true, and must be a number or a serialized schedule"),
        (
            r#"{"class_name": "Lion", "config": {}, "extra": 1}"#,
            "extra is not a known key; known: class_name, module, config, registered_name, shared_object_id",
        ),
        (
            r#"{"class_name": "Adam", "config": {}}"#,
            r#"class_name is "Adam", and must be "Lion" or "LossScaleOptimizer""#,
        ),
        (r#"{"class_name": 1}"#, "class_name is 1, and must be a string"),
        (r#"{"class_name": "Lion", "config": 1}"#, "config is 1, and must be an object"),
        (r#"{"class_name": "Lion", "module": 1}"#, "module is 1, and must be a string"),
        (
            r#"{"class_name": "Lion", "module": "lion"}"#,
            r#"module is "lion", and must be "keras.optimizers""#,
        ),
        (
            r#"{"class_name": "LossScaleOptimizer"}"#,
            "config.inner_optimizer is missing, and must be an object",
        ),
        (
            r#"{"class_name": "LossScaleOptimizer", "config": {"inner_optimizer": {"class_name": "SGD"}}}"#,
            r#"config.inner_optimizer.class_name is "SGD", and must be "Lion""#,
        ),
        (r#"{"learning_rate": {}}"#, "learning_rate.class_name is missing, and must be a string"),
        (
            r#"{"learning_rate": {"class_name": "WarmUp", "config": {}}}"#,
            "learning_rate.class_name is \"WarmUp\", and must be one of ExponentialDecay, InverseTimeDecay, \
             PiecewiseConstantDecay, PolynomialDecay, CosineDecay, CosineDecayRestarts, Constant, LinearWarmup, \
             WarmupStableDecay, InverseSquareRoot, OneCycle",
        ),
        (
            r#"{"learning_rate": {"class_name": "Constant", "module": "keras.optimizers.schedules",
                "config": {"learning_rate": 1}}}"#,
            r#"learning_rate.module is "keras.optimizers.schedules", and must be "lion""#,
        ),
        (
            r#"{"learning_rate": {"class_name": "CosineDecay", "config": {"initial_learning_rate": 0.1}}}"#,
            "learning_rate.config.decay_steps is missing, and must be a number",
        ),
        (
            r#"{"learning_rate": {"class_name": "Constant", "config": {"learning_rate": 1, "warm": 2}}}"#,
            "learning_rate.config.warm is not a known key; known: learning_rate, name",
        ),
        (
            r#"{"learning_rate": {"class_name": "PiecewiseConstantDecay",
                "config": {"boundaries": [1, "2"], "values": [1, 2, 3]}}}"#,
            "learning_rate.config.boundaries[1] is \"2\", and must be a number",
        ),
        (
            r#"{"learning_rate": {"class_name": "PiecewiseConstantDecay", "config": {"boundaries": 1}}}"#,
            "learning_rate.config.boundaries is 1, and must be a list of numbers",
        ),
        (
            r#"{"learning_rate": {"class_name": "LinearWarmup", "config": {"warmup_steps": 3, "after": 5}}}"#,
            "learning_rate.config.after is 5, and must be an object",
        ),
        (
            r#"{"learning_rate": {"class_name": "WarmupStableDecay", "config": {"peak_learning_rate": 1,
                "warmup_steps": 3, "stable_steps": 1, "decay_steps": 1, "shape": "round"}}}"#,
            "learning_rate.config.shape is \"round\", and must be one of linear, cosine, one_minus_sqrt",
        ),
    ] {
        assert_eq!(refused(text), expected);
    }
}

#[test]
fn broken_json_is_placed() {
    for (text, expected) in [
        ("", "not valid JSON: EOF while parsing a value at line 1 column 0"),
        ("{} {}", "not valid JSON: trailing characters at line 1 column 4"),
        (r#"{"beta_1": NaN}"#, "beta_1 is NaN, and must be a finite number"),
        (r#"{"beta_1":NaN}"#, "beta_1 is NaN, and must be a finite number"),
        ("{\n  \"learning_rate\": Infinity\n}", "learning_rate is Infinity, and must be a finite number"),
        (r#"{"clipnorm": -Infinity}"#, "clipnorm is -Infinity, and must be a finite number"),
        (
            r#"{"learning_rate": {"class_name": "CosineDecay", "config": {"alpha":NaN}}}"#,
            "learning_rate.config.alpha is NaN, and must be a finite number",
        ),
        (r#"{"beta_1": 1e999}"#, "beta_1: number out of range at line 1 column 16"),
        (r#"{"beta_1": 0.5, "beta_1": 0.6}"#, "beta_1: duplicate key at line 1 column 24"),
        (r#"{"a": {"b": 1, "b": 2}}"#, "a.b: duplicate key at line 1 column 18"),
        (r#"{"clipnorm": }"#, "clipnorm: expected value at line 1 column 14"),
        (r#"{"na me\n": tru}"#, "\"na me\\n\": expected ident at line 1 column 16"),
    ] {
        assert_eq!(refused(text), expected, "{text}");
    }
    // Long and deep texts give short errors, and leave the stack alone.
    for deep in ["[".repeat(1 << 20), "{\"a\":".repeat(1 << 20), "[".repeat(1 << 20) + &"]".repeat(1 << 20)] {
        assert!(refused(&deep).contains("recursion limit exceeded"));
    }
    let long = "x".repeat(1 << 20);
    for text in [
        json!({ &long: 1 }),
        json!({"beta_1": long}),
        json!({"class_name": long}),
        json!({"class_name": "Lion", "module": long}),
        json!({"class_name": long, "registered_name": long}),
        json!({"class_name": "function", "config": long}),
        json!({"optimizer": long}),
        json!({"learning_rate": {"class_name": long, "module": long}}),
    ] {
        refused(&text.to_string());
    }
}

#[test]
fn configs_go_between_threads() {
    fn check<T: Clone + std::fmt::Debug + Send + Sync>() {}
    check::<Config>();
    check::<Schedule>();
    check::<lion::Constraint>();
}

#[test]
fn cut_texts_are_refused() {
    let mut config = Config::default();
    config.learning_rate = CosineDecay::new(0.1, 10.0).unwrap().into();
    config.dynamic_loss_scale = Some(DynamicLossScale::default());
    let text = config.to_json().unwrap();
    for end in 0..text.len() {
        assert!(Config::from_json(&text[..end]).is_err(), "cut at {end}");
    }
    // A flipped bit gives an error or a config, and never a panic.
    for at in 0..text.len() {
        for bit in 0..7 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(bytes) {
                let _ = Config::from_json(&text);
            }
        }
    }
}
