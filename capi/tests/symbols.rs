//! The shared library exports the functions of the header, and nothing else; and it stays loaded.

#![cfg(target_os = "linux")]

use std::path::PathBuf;
use std::process::Command;

const EXPORTED: [&str; 28] = [
    "lion_abandon",
    "lion_abandoned_range",
    "lion_abi_version",
    "lion_add_group",
    "lion_add_statistics",
    "lion_advise_huge_pages",
    "lion_apply",
    "lion_begin",
    "lion_finalize",
    "lion_finish",
    "lion_free",
    "lion_last_error",
    "lion_load",
    "lion_measure",
    "lion_metrics",
    "lion_new",
    "lion_new_from_config",
    "lion_options_init",
    "lion_part",
    "lion_register",
    "lion_save",
    "lion_set",
    "lion_set_group",
    "lion_set_learning_rate",
    "lion_set_parallel_for",
    "lion_set_plan",
    "lion_statistics",
    "lion_step",
];

/// The library that cargo has made beside this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    test.parent().expect("a folder").join("liblion_c.so")
}

fn output(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).arg(library()).output().expect("binutils");
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn what_is_exported_is_what_the_header_has() {
    let names = output("nm", &["--dynamic", "--defined-only", "--format=posix"]);
    let mut found: Vec<_> = names.lines().filter_map(|line| line.split(' ').next()).collect();
    found.sort_unstable();
    assert_eq!(found, EXPORTED);

    let header = include_str!("../include/lion.h");
    let code = header.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut declared: Vec<_> = code
        .filter(|line| !line.starts_with(' ') && line.contains("lion_"))
        .filter_map(|line| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_').find(|word| word.starts_with("lion_"))
        })
        .collect();
    declared.sort_unstable();
    assert_eq!(declared, EXPORTED);
}

#[test]
fn the_library_stays_loaded() {
    let flags = output("readelf", &["--dynamic", "--wide"]);
    assert!(flags.contains("NODELETE"), "{flags}");
}
