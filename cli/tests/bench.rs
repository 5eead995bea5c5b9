//! `lion bench`: its output and its usage errors. No test asserts a time.

use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lion"));
    command.arg("bench").args(arguments).env_remove("LION_ISA").output().expect("it runs")
}

/// Runs the shortest possible measurement and returns its JSON objects.
fn objects(arguments: &[&str]) -> Vec<Value> {
    let done = bench(&[&["--json", "--seconds", "0"], arguments].concat());
    assert!(done.status.success(), "{done:?}");
    let text = String::from_utf8(done.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

#[test]
fn an_object_for_every_combination() {
    let found = objects(&["--sizes", "1K,100", "--dtypes", "f32/bf16/f32,f16/f16/f16", "--threads", "1,2"]);
    let key = |it: &Value| {
        let text = |name: &str| it[name].as_str().expect("text").to_owned();
        let number = |name: &str| it[name].as_u64().expect("a number");
        (text("param") + "/" + &text("grad") + "/" + &text("momentum"), number("elements"), number("threads"))
    };
    let mut expected = Vec::new();
    for dtypes in ["f32/bf16/f32", "f16/f16/f16"] {
        for elements in [1024, 100] {
            expected.extend([1, 2].map(|threads| (dtypes.to_owned(), elements, threads)));
        }
    }
    assert_eq!(found.iter().map(key).collect::<Vec<_>>(), expected);
    for object in &found {
        for name in ["ns_per_element", "gb_per_s", "limit_ns_per_element", "ratio", "ratio_p10", "ratio_p90"]
        {
            assert!(object[name].as_f64().expect(name) > 0.0, "{name} of {object}");
        }
        assert!(object["samples"].as_u64().expect("a number") > 0);
        let fixed =
            ["operation", "pipeline", "pages", "calls"].map(|name| object[name].as_str().expect(name));
        assert_eq!(
            (fixed, object["tensors"].as_u64()),
            (["apply", "plain", "huge", "back-to-back"], Some(1))
        );
    }
}

/// `lion tune` takes formats in the same way.
#[test]
fn one_format_stands_for_all_three() {
    let found = objects(&["--sizes", "100", "--dtypes", "bf16", "--threads", "1"]);
    let [object] = &found[..] else { panic!("{found:?}") };
    assert_eq!(["param", "grad", "momentum"].map(|name| object[name].as_str().expect(name)), ["bf16"; 3]);
}

#[test]
fn many_tensors_and_the_full_pipeline() {
    let found = objects(&[
        "--tensors",
        "50x300",
        "--dtypes",
        "bf16/f32/f32",
        "--threads",
        "2",
        "--pipeline",
        "full",
        "--pages",
        "small",
        "--isa",
        "scalar",
    ]);
    let [object] = &found[..] else { panic!("{found:?}") };
    assert_eq!((object["tensors"].as_u64(), object["elements"].as_u64()), (Some(50), Some(15_000)));
    let fixed = ["pipeline", "pages", "backend"].map(|name| object[name].as_str().expect(name));
    assert_eq!(fixed, ["full", "small", "scalar"]);
}

/// Results say whether steps were apart.
#[test]
fn calls_apart() {
    let arguments = ["--calls", "apart", "--sizes", "1K", "--dtypes", "f32", "--threads", "1"];
    let found = objects(&arguments);
    let [object] = &found[..] else { panic!("{found:?}") };
    assert_eq!(object["calls"].as_str(), Some("apart"));
    assert!(object["ns_per_element"].as_f64().expect("a time") > 0.0, "{object}");
    let done = bench(&[&["--seconds", "0"], &arguments[..]].concat());
    let text = String::from_utf8(done.stdout).expect("text");
    assert!(text.starts_with("calls apart, as in training: "), "{text}");
}

#[test]
fn a_table_with_bars() {
    let done = bench(&["--seconds", "0", "--sizes", "1K", "--dtypes", "f32/f32/f32", "--threads", "1"]);
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    let text = String::from_utf8(done.stdout).expect("text");
    assert!(
        text.starts_with("calls back to back\n")
            && text.contains("ns/elem")
            && text.contains("f32/f32/f32 1 K, 1 thread")
            && text.contains('█'),
        "{text}"
    );
}

#[test]
fn nonsense_is_bad_usage_in_a_few_words() {
    let wrong: &[&[&str]] = &[
        &["--sizes", "0"],
        &["--sizes", "1KK"],
        &["--sizes", "99999999999999999999"],
        &["--sizes", "5000M"],
        &["--sizes", ""],
        &["--dtypes", "f32/f32"],
        &["--dtypes", "f32/f32/f64"],
        &["--threads", "0"],
        &["--threads", "1000000"],
        &["--isa", "sse9"],
        &["--tensors", "10"],
        &["--tensors", "0x5"],
        &["--tensors", "1000000x1M"],
        &["--tensors", "5x5", "--model", "gpt2"],
        &["--model", "gpt5"],
        &["--seconds", "-1"],
        &["--seconds", "NaN"],
        &["--pages", "tiny"],
        &["--calls", "often"],
    ];
    for arguments in wrong {
        let done = bench(arguments);
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {done:?}");
        assert!(done.stdout.is_empty() && !done.stderr.is_empty(), "{arguments:?}: {done:?}");
    }
}
