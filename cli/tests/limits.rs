//! System limits on a process: no threads, little memory, no large files. Each command succeeds, or ends with 1 and one
//! line; never with a panic, a signal or a half-written file.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Output};

use common::writers::Writers;
use common::{Files, LION, finish, said, skip, words};

/// Asserts that a command succeeded, or failed with one line after its warnings.
#[track_caller]
fn succeeded_or_failed(done: &Output, what: &str) {
    let said = said(done);
    let is_error = |line: &&str| !line.starts_with("lion: warning: ") && !line.starts_with("lion: wrote ");
    let errors: Vec<_> = said.lines().filter(is_error).collect();
    match done.status.code() {
        Some(0) => assert!(errors.is_empty(), "{what}: {done:?}"),
        Some(1) => assert!(errors.len() == 1 && errors[0].starts_with("lion: "), "{what}: {done:?}"),
        _ => panic!("{what}: {done:?}"),
    }
}

/// Returns a command that runs under a limit of the shell (`ulimit`).
fn below(files: &Files, limit: &str, arguments: &[String]) -> Command {
    let script = format!("ulimit {limit} && exec \"$0\" \"$@\"");
    files.command("sh", &[&["-c".to_owned(), script, LION.to_owned()], arguments].concat())
}

/// No thread can be created. The limit does not bind the superuser, so the test becomes another user.
#[test]
fn no_more_threads() {
    let files = Files::new();
    fs::set_permissions(files.path("."), Permissions::from_mode(0o777)).expect("permitted");
    let tune = words("tune --time-limit 0 --ops statistics --dtypes f32 --output");
    let tuned = finish(&mut files.command(LION, &[&tune[..], &[files.text("profile.toml")]].concat()));
    assert!(tuned.status.success(), "{tuned:?}");
    fs::set_permissions(files.path("profile.toml"), Permissions::from_mode(0o644)).expect("permitted");
    let is_root = fs::metadata("/proc/self").expect("Linux has one").uid() == 0;
    let user = words("setpriv --reuid=65534 --regid=65534 --clear-groups");
    let limit = words("prlimit --nproc=0");
    let around = if is_root { [user, limit].concat() } else { limit };
    let run = |arguments: &[String]| {
        let rest = [&around[1..], &[LION.to_owned()], arguments].concat();
        files.command(&around[0], &rest)
    };
    if !run(&words("--version")).output().is_ok_and(|done| done.status.success()) {
        return skip("no setpriv and prlimit that start lion as another user");
    }
    let plain = files.replay("plain.safetensors");
    assert!(finish(&mut files.command(LION, &plain)).status.success());
    let plain = fs::read(files.path("plain.safetensors")).expect("written");

    let mut commands = files.every_command();
    let replay = files.replay("threads.safetensors");
    commands.push([&replay[..], &words("--threads 2")].concat());
    commands.push(words("tune --time-limit 0 --dry-run --ops statistics --dtypes f32"));
    let verify = ["profile", "verify", &files.text("profile.toml"), "--time-limit", "0", "--rounds", "5"];
    commands.push(verify.map(str::to_owned).into());
    for arguments in commands {
        let done = finish(&mut run(&arguments));
        let what = arguments.join(" ");
        succeeded_or_failed(&done, &what);
        // These need the number of threads that they are given, and name it in their error.
        if what.contains("--threads") {
            assert!(said(&done).contains("thread") && done.status.code() == Some(1), "{what}: {done:?}");
        } else if arguments[0] != "profile" {
            assert!(done.status.success(), "{what}: {done:?}");
        }
    }
    assert!(fs::read(files.path("result.safetensors")).expect("written") == plain, "other bits");
    assert!(!files.path("threads.safetensors").exists());
}

/// Writes a run of one tensor of 16 MiB as a sparse file.
fn large_run(files: &Files) {
    let elements = 4 << 20;
    let size = 4 * elements;
    let entry = |begin: usize| {
        format!("{{\"dtype\":\"F32\",\"shape\":[{elements}],\"data_offsets\":[{begin},{}]}}", begin + size)
    };
    let header = format!("{{\"param/w\":{},\"grad/0/w\":{}}}", entry(0), entry(size));
    let mut file = File::create(files.path("run.safetensors")).expect("made");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("written");
    file.write_all(header.as_bytes()).expect("written");
    file.set_len((8 + header.len() + 2 * size) as u64).expect("a file with a hole");
}

/// Little address space. Below about 16 MiB a Rust program may fail to start a thread: the standard library aborts if a
/// small allocation fails.
#[test]
fn little_memory() {
    let files = Files::new();
    let small = files.every_command();
    assert!(finish(&mut files.command(LION, &small[0])).status.success());
    let plain = fs::read(files.path("result.safetensors")).expect("written");
    let (mut tried, mut refused, mut done_large) = (0, 0, 0);
    let large = Files::new();
    large_run(&large);
    for mebibytes in [24, 32, 48, 64, 96, 128, 256, 512] {
        let limit = format!("-v {}", mebibytes << 10);
        // The dynamic loader may fail before the program runs.
        if !finish(&mut below(&files, &limit, &words("--version"))).status.success() {
            continue;
        }
        tried += 1;
        for arguments in &small {
            let done = finish(&mut below(&files, &limit, arguments));
            succeeded_or_failed(&done, &format!("{limit}: {arguments:?}"));
            assert!(fs::read(files.path("result.safetensors")).expect("there") == plain, "other bits");
        }
        let done = finish(&mut below(&large, &limit, &large.replay("result.safetensors")));
        succeeded_or_failed(&done, &format!("{limit}: a large run"));
        refused += usize::from(said(&done).contains("no memory for 4194304 elements of f32"));
        done_large += usize::from(done.status.success());
        assert_eq!(done.status.success(), large.path("result.safetensors").exists());
        let _ = fs::remove_file(large.path("result.safetensors"));
    }
    assert!(
        tried > 3 && refused > 0 && done_large > 0,
        "{tried} limits, {refused} refused, {done_large} done"
    );
}

/// A file beyond the size limit. By default a signal would end the process, which would leave its temporary file.
#[test]
fn no_large_files() {
    let writers = Writers::new();
    for writer in &writers.all {
        let mut refused = 0;
        // The unit is 512 or 1024 bytes, depending on the shell.
        for blocks in [0, 1, 2, 1000] {
            // The old file is written without the limit.
            drop(writers.prepare(writer));
            let done = finish(&mut below(&writers.files, &format!("-f {blocks}"), &writer.arguments));
            writer.succeeded_or_failed_whole(&done);
            assert!(writers.others(writer).is_empty(), "{done:?}");
            if !done.status.success() {
                assert!(said(&done).contains("cannot write: File too large"), "{done:?}");
                refused += 1;
            }
        }
        assert!((1..4).contains(&refused), "{:?}: {refused} refused", writer.arguments);
    }
    // The log causes a warning, the profile an error.
    let output = writers.files.text("profile.toml");
    let tune = words("tune --time-limit 0 --ops statistics --dtypes f32 --threads 1 --output");
    let old = fs::read(&output).expect("there");
    let done =
        finish(&mut below(&writers.files, "-f 0", &[&tune[..], std::slice::from_ref(&output)].concat()));
    succeeded_or_failed(&done, "tune");
    assert!(said(&done).contains("tuning.jsonl: cannot "), "{done:?}");
    assert_eq!((done.status.code(), fs::read(&output).expect("there")), (Some(1), old), "{done:?}");
}
