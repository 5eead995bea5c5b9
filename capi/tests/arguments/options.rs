//! Options, texts, variables and groups.

use std::ptr;

use lion_c::*;

use crate::common::{VARIABLE, last_error, ok, options, refused, text};
use crate::optimizer;

#[test]
fn texts_and_options() {
    let built = |options: &LionOptions| {
        let mut made = ptr::dangling_mut();
        // SAFETY: the options are right in all but their values.
        let status = unsafe { lion_new(options, &raw mut made) };
        assert!(made.is_null(), "no optimizer where there is an error");
        status
    };
    let json = |json: &str| {
        let json = text(json);
        built(&LionOptions { json: json.as_ptr(), ..options() })
    };
    refused(
        built(&LionOptions { beta_1: 0.0, ..options() }),
        LION_ERROR_VALUE,
        "beta_1 is 0, and must be in (0, 1]",
    );
    let wrong = LionOptions { weight_decay: -2.0, ..options() };
    refused(built(&wrong), LION_ERROR_VALUE, "weight_decay is -2, and must be in [0, inf)");
    let wrong = LionOptions { learning_rate: f64::NAN, ..options() };
    refused(built(&wrong), LION_ERROR_VALUE, "learning_rate is NaN, and must be in [0, inf)");
    refused(
        json(r#"{"beta": 1}"#),
        LION_ERROR_NAME,
        r#"option "beta" does not exist; nearest: beta_1, beta_2"#,
    );
    refused(json("1"), LION_ERROR_VALUE, "the text is 1, and must be an object");
    assert_eq!(json("{"), LION_ERROR_FORMAT);
    let message = "clipnorm is 1 and clipvalue is 1, and at most one of clipnorm, global_clipnorm and clipvalue may be set";
    refused(json(r#"{"clipnorm": 1, "clipvalue": 1}"#), LION_ERROR_VALUE, message);
    let latin = c"\xe9";
    refused(
        built(&LionOptions { json: latin.as_ptr(), ..options() }),
        LION_ERROR_VALUE,
        "json is not UTF-8; expected text in UTF-8",
    );

    let isa = text("mmx");
    let plan = LionPlan {
        struct_size: size_of::<LionPlan>(),
        isa: isa.as_ptr(),
        threads: 0,
        chunk_elements: 0,
        parallel_threshold: 0,
    };
    assert_eq!(built(&LionOptions { plan: &raw const plan, ..options() }), LION_ERROR_NAME);
    assert!(
        last_error().starts_with(r#"backend "mmx" does not exist; available here: "#),
        "{}",
        last_error()
    );

    let c = optimizer();
    let set = |name: &str, value: &str| {
        let (name, value) = (text(name), text(value));
        // SAFETY: texts that end with a zero.
        unsafe { lion_set(c.0, name.as_ptr(), value.as_ptr()) }
    };
    ok(set("weight_decay", "0.1"));
    ok(set("weight_decay", "null"));
    refused(set("beta_2", "2"), LION_ERROR_VALUE, "beta_2 is 2, and must be in [0, 1]");
    assert_eq!(set("use_ema", "true"), LION_ERROR_UNSUPPORTED);
    assert_eq!(set("learning_rate", "fast"), LION_ERROR_FORMAT);
    // SAFETY: an optimizer.
    let status = unsafe { lion_set_learning_rate(c.0, -1.0) };
    refused(status, LION_ERROR_VALUE, "learning_rate is -1, and must be in [0, inf)");

    let register = |name: &str, rank: usize, dtype: u32, options: LionVariableOptions| {
        let (name, shape, mut id) = (text(name), [2_usize, 3], 0);
        // SAFETY: as long as the ranks that are given here, or refused.
        unsafe {
            lion_register(c.0, name.as_ptr(), shape.as_ptr(), rank, dtype, &raw const options, &raw mut id)
        }
    };
    refused(register("a", 2, LION_F32, VARIABLE), LION_ERROR_NAME, r#"variable "a" already exists"#);
    assert_eq!(register("", 2, LION_F32, VARIABLE), LION_ERROR_VALUE);
    refused(register("c", 1025, LION_F32, VARIABLE), LION_ERROR_VALUE, "rank is 1025; expected at most 1024");
    assert_eq!(register("c", 2, 9, VARIABLE), LION_ERROR_VALUE);
    assert_eq!(
        register("c", 2, LION_F32, LionVariableOptions { momentum_dtype: 9, ..VARIABLE }),
        LION_ERROR_VALUE
    );
    let shard = LionVariableOptions { shard_start: 4, shard_end: 7, ..VARIABLE };
    refused(
        register("c", 2, LION_F32, shard),
        LION_ERROR_STEP,
        r#"variable "c": the range 4..7 must be within 0..6"#,
    );
    ok(register("c", 0, LION_F32, VARIABLE));

    let constrained = |json: &str, status: LionStatus, message: &str| {
        let json = text(json);
        let options = LionVariableOptions { constraint: json.as_ptr(), ..VARIABLE };
        refused(register("d", 2, LION_F32, options), status, message);
    };
    constrained(
        r#"{"class_name": "MaxNorm", "config": {"max_value": -1}}"#,
        LION_ERROR_VALUE,
        "constraint: config.max_value is -1, and must be in [0, inf)",
    );
    constrained(
        r#"{"class_name": "Sparse", "config": {}}"#,
        LION_ERROR_VALUE,
        r#"constraint: class_name is "Sparse", and must be one of NonNeg, MaxNorm, UnitNorm or MinMaxNorm"#,
    );
    constrained(
        r#"{"class_name": "UnitNorm", "config": {"axis": 2}}"#,
        LION_ERROR_VALUE,
        r#"the constraint of "d".axis is 2, and must be an axis of the shape [2, 3]"#,
    );
    assert_eq!(
        register("d", 2, LION_F32, LionVariableOptions { group: 1, ..VARIABLE }),
        LION_ERROR_NAME,
        "a group that does not exist"
    );
}

#[test]
fn groups() {
    let c = optimizer();
    let mut group = 9;
    let mut add = |json: &str| {
        let json = text(json);
        // SAFETY: a text, and a result that is writable.
        unsafe { lion_add_group(c.0, json.as_ptr(), &raw mut group) }
    };
    refused(add("[]"), LION_ERROR_VALUE, "the text is a list of 0, and must be an object");
    assert_eq!(add("{"), LION_ERROR_FORMAT);
    assert_eq!(add(r#"{"lr": 1}"#), LION_ERROR_FORMAT);
    assert!(last_error().starts_with("lr is not a known key; known: learning_rate_multiplier, "));
    let message = "beta_1 is null, and must be a number or a serialized schedule";
    refused(add(r#"{"beta_1": null}"#), LION_ERROR_VALUE, message);
    let message = "learning_rate_multiplier is -1, and must be in [0, inf)";
    refused(add(r#"{"learning_rate_multiplier": -1}"#), LION_ERROR_VALUE, message);
    ok(add("{}"));
    assert_eq!(group, 1, "the groups that failed have no number");
    let set = |group: LionGroup, json: &str| {
        let json = text(json);
        // SAFETY: a text.
        unsafe { lion_set_group(c.0, group, json.as_ptr()) }
    };
    ok(set(1, r#"{"weight_decay": null}"#));
    ok(set(0, "{}"));
    assert_eq!(set(2, "{}"), LION_ERROR_NAME);
    assert_eq!(set(u64::MAX, "{}"), LION_ERROR_NAME);
    // SAFETY: null is refused.
    unsafe {
        refused(lion_add_group(c.0, ptr::null(), ptr::null_mut()), LION_ERROR_POINTER, "group is null");
        refused(lion_set_group(c.0, 0, ptr::null()), LION_ERROR_POINTER, "json is null");
    }
}
