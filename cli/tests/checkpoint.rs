//! `lion checkpoint`: splitting for ranks and merging back, and bad input.

mod common;

use std::fs;
use std::process::Output;

use common::Files;
use lion_tests::safetensors;

/// Returns the exit status and the line on stderr.
fn said(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.lines().count() <= 1 && output.stdout.is_empty(), "{output:?}");
    (output.status.code(), text)
}

fn run(files: &Files, arguments: &[&str]) -> (Option<i32>, String) {
    said(&files.lion(arguments).output().expect("it runs"))
}

#[test]
fn a_result_is_split_and_merged_to_the_same_bytes() {
    let files = Files::new();
    let replayed =
        files.command(common::LION, &files.replay("result.safetensors")).output().expect("it runs");
    assert!(replayed.status.success(), "{replayed:?}");
    let [result, index, merged] =
        ["result.safetensors", "run.json", "merged.safetensors"].map(|it| files.text(it));
    for ranks in ["1", "2", "2"] {
        let split = ["checkpoint", "split", &result, "--ranks", ranks, "--output", &index];
        assert_eq!(run(&files, &split), (Some(0), String::new()));
        assert_eq!(
            run(&files, &["checkpoint", "merge", &index, "--output", &merged]),
            (Some(0), String::new())
        );
        assert_eq!(fs::read(&merged).expect("written"), fs::read(&result).expect("written"));
    }
    let parts = fs::read_dir(files.path("")).expect("a folder").filter_map(Result::ok);
    let parts: Vec<_> =
        parts.map(|it| it.path()).filter(|it| it.to_string_lossy().contains("run-")).collect();
    assert_eq!(parts.len(), 2, "{parts:?}");

    // Bad input ends with 1, one line on stderr and unchanged files.
    let refused = |arguments: &[&str], expected: &str| {
        let (code, line) = run(&files, arguments);
        assert!(code == Some(1) && line.contains(expected), "{code:?} {line}");
    };
    let part = parts[0].to_string_lossy().into_owned();
    refused(
        &["checkpoint", "merge", &result, "--output", &merged],
        "is not the index of a sharded checkpoint",
    );
    refused(&["checkpoint", "merge", &files.text("none.json"), "--output", &merged], "cannot open");
    refused(&["checkpoint", "merge", &index, "--output", &part], "would replace a file that is read");
    refused(&["checkpoint", "merge", &index, "--output", &index], "would replace a file that is read");
    refused(
        &["checkpoint", "split", &result, "--ranks", "2", "--output", &result],
        "would replace a file that is read",
    );
    refused(&["checkpoint", "split", &part, "--ranks", "2", "--output", &index], "is a part of a checkpoint");
    refused(
        &["checkpoint", "split", &index, "--ranks", "2", "--output", &files.text("x.json")],
        "expected a safetensors file",
    );
    refused(
        &["checkpoint", "split", &result, "--ranks", "1000", "--output", &index],
        "the number of ranks is 1000",
    );
    refused(
        &["checkpoint", "split", &result, "--ranks", "2", "--output", &files.text("x")],
        "with an extension",
    );
    refused(
        &["checkpoint", "split", &result, "--ranks", "2", "--output", &files.text("gone/x.json")],
        "its folder",
    );
    let usage = files.lion(&["checkpoint", "split", &result, "--ranks", "0", "--output", &index]).output();
    assert_eq!(usage.expect("it runs").status.code(), Some(2));
    assert_eq!(run(&files, &["checkpoint", "merge", &index, "--output", &merged]), (Some(0), String::new()));
    assert_eq!(fs::read(&merged).expect("written"), fs::read(&result).expect("written"));

    // A truncated part.
    let bytes = fs::read(&part).expect("a part");
    fs::write(&part, &bytes[..bytes.len() - 1]).expect("written");
    refused(&["checkpoint", "merge", &index, "--output", &merged], "it was cut short");
    assert_eq!(fs::read(&merged).expect("written"), fs::read(&result).expect("written"));
}

/// A checkpoint without parameters cannot be sharded.
#[test]
fn a_checkpoint_needs_its_parameters() {
    let files = Files::new();
    let path = files.path("state.safetensors");
    let header = r#"{"__metadata__":{"iterations":"3"},"momentum/a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    fs::write(&path, safetensors::file(header, &[0; 8])).expect("written");
    let split = [
        "checkpoint",
        "split",
        &files.text("state.safetensors"),
        "--ranks",
        "1",
        "--output",
        &files.text("x.json"),
    ];
    let (code, line) = run(&files, &split);
    assert!(code == Some(1) && line.contains("param/a: is missing"), "{line}");
    assert!(!files.path("x.json").exists());
}
