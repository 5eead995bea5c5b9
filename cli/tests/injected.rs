//! Fault injection: each system call of each writer fails once, or kills the process (full disk, broken disk, SIGKILL). The
//! target is then either the whole old file or the whole new file, and the next writer removes the temporary file of a
//! dead one.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::shim::{EIO, ENOSPC, Fault, Shim};
use common::writers::Writers;
use common::{Files, LION, failed_at, finish, said, wait, words};

const SIGKILL: i32 = 9;
/// Far more calls of one kind than any of these commands makes.
const MOST_CALLS: usize = 200;

/// Lets the first call of a kind fail, then the second, and so on. Returns the number of calls.
fn at_each(call: &'static str, how: &'static str, mut run: impl FnMut(Fault) -> bool) -> usize {
    let count = (1..=MOST_CALLS).take_while(|&at| run(Fault { call, at, how })).count();
    assert!(count < MOST_CALLS, "{call}: there is no end");
    count
}

/// Returns whether a command must succeed despite this fault. The owner is kept only if that is allowed, the lock is only
/// for sweepers, a partial write is continued, and a file that is not removed is swept later.
fn is_survived(fault: Fault) -> bool {
    matches!(fault.call, "owner" | "lock" | "unlink") || fault.how == "short"
}

#[test]
fn each_call_of_a_writer_fails() {
    let Some(shim) = Shim::compile() else { return };
    let writers = Writers::new();
    for writer in &writers.all {
        for (call, errors) in [
            ("open", &[EIO, ENOSPC][..]),
            ("write", &["short", EIO, ENOSPC]),
            ("sync", &[EIO, ENOSPC]),
            ("rename", &[EIO, ENOSPC]),
            ("list", &[EIO]),
            ("mode", &[EIO]),
            ("owner", &[EIO]),
            ("lock", &[EIO]),
            ("unlink", &[EIO]),
        ] {
            for how in errors {
                let count = at_each(call, how, |fault| {
                    let mut command = writers.prepare(writer);
                    let done = finish(shim.inject(fault, &writers.folder(), &mut command));
                    let hit = shim.was_hit(fault);
                    let place = format!("{:?}, {fault:?}: {done:?}", writer.arguments);
                    writer.succeeded_or_failed_whole(&done);
                    assert_eq!(done.status.success(), !hit || is_survived(fault), "{place}");
                    assert_eq!(writers.others(writer).len(), 0, "{place}");
                    hit
                });
                // Only the check before a long run removes a file.
                assert!(count > 0 || call == "unlink", "{:?}: no {call}", writer.arguments);
            }
        }
    }
}

/// The tuner's log is not a result: if it cannot be written, the tuning warns and succeeds.
#[test]
fn each_call_of_the_record_fails() {
    let Some(shim) = Shim::compile() else { return };
    let files = Files::new();
    let (profile, record) = (files.text("profile.toml"), files.text(".cache/lion/tuning.jsonl"));
    let tune = ["tune", "--time-limit", "0", "--ops", "statistics", "--dtypes", "f32", "--threads", "1"];
    let tune = || {
        let mut command = files.lion(&tune);
        command.args(["--output", &profile]);
        command
    };
    fs::create_dir_all(files.path(".cache/lion")).expect("made");
    for (call, errors) in [
        ("open", &[EIO][..]),
        ("lock", &[EIO]),
        ("seek", &[EIO]),
        ("size", &[EIO]),
        ("write", &["short", EIO, ENOSPC]),
    ] {
        for how in errors {
            let count = at_each(call, how, |fault| {
                let _ = fs::remove_file(&profile);
                let done = finish(shim.inject(fault, &files.path(".cache/lion"), &mut tune()));
                assert!(done.status.success() && files.path("profile.toml").exists(), "{fault:?}: {done:?}");
                let hit = shim.was_hit(fault);
                let said = said(&done);
                let warnings: Vec<_> = said.lines().filter(|line| line.contains("warning: ")).collect();
                assert!(warnings.len() <= 1 && warnings.iter().all(|line| line.contains(&record)), "{said}");
                // A log that cannot be read is started anew without a warning.
                assert_eq!(warnings.len() == 1, hit && *how != "short" && (call, fault.at) != ("seek", 1));
                hit
            });
            assert!(count > 0, "no {call}");
        }
    }
}

/// SIGKILL before each call of each writer. The next writer of the target removes the temporary file.
#[test]
fn killed_at_each_call() {
    let Some(shim) = Shim::compile() else { return };
    let writers = Writers::new();
    let mut left = 0;
    for writer in &writers.all {
        for call in ["open", "lock", "write", "owner", "mode", "sync", "rename", "list"] {
            let count = at_each(call, "kill", |fault| {
                let mut command = writers.prepare(writer);
                let done = finish(shim.inject(fault, &writers.folder(), &mut command));
                let killed = done.status.signal().is_some();
                assert_eq!(killed, shim.was_hit(fault), "{fault:?}: {done:?}");
                let is_new = writer.is_new();
                assert!(killed || is_new, "{fault:?}: {done:?}");
                let others = writers.others(writer).len();
                assert!(others <= usize::from(killed), "{fault:?}: {others} files");
                if others > 0 {
                    left += 1;
                    let done = finish(&mut writers.files.command(LION, &writer.arguments));
                    assert!(done.status.success() && writer.is_new(), "{fault:?}: {done:?}");
                    assert_eq!(writers.others(writer).len(), 0, "{fault:?}");
                }
                killed
            });
            assert!(count > 0, "{:?}: no {call}", writer.arguments);
        }
    }
    assert!(left > writers.all.len(), "only {left} killed writers left a file");
}

/// A stopped writer keeps its temporary file, even if others write the target meanwhile.
#[test]
fn a_live_writer_keeps_its_file() {
    let Some(shim) = Shim::compile() else { return };
    let writers = Writers::new();
    let writer = &writers.all[0];
    let mut command = writers.prepare(writer);
    let fault = Fault { call: "write", at: 2, how: "stop" };
    let mut child = shim.inject(fault, &writers.folder(), &mut command).spawn().expect("it starts");
    let stat = format!("/proc/{}/stat", child.id());
    while !fs::read_to_string(&stat).expect("it lives").contains(") T ") {
        assert!(child.try_wait().expect("waited").is_none(), "it did not stop");
        std::thread::sleep(Duration::from_millis(2));
    }
    for _ in 0..2 {
        let done = finish(&mut writers.files.command(LION, &writer.arguments));
        assert!(done.status.success() && writer.is_new(), "{done:?}");
        assert_eq!(writers.others(writer).len(), 1);
    }
    let continued = Command::new("sh").args(["-c", "kill -CONT $0", &child.id().to_string()]).status();
    assert!(continued.expect("it runs").success());
    assert!(wait(&mut child).is_some_and(|status| status.success()) && writer.is_new());
    assert_eq!(writers.others(writer).len(), 0);
}

/// SIGKILL at random moments, also of a tuner with a log.
#[test]
fn killed_at_random_moments() {
    let mut random = fastrand::Rng::with_seed(20);
    let writers = Writers::new();
    let record = writers.files.text(".cache/lion/tuning.jsonl");
    let output = writers.files.text("results/output");
    let mut commands: Vec<_> = writers.all.iter().map(|writer| writer.arguments.clone()).collect();
    commands.extend(writers.files.every_command());
    commands.push(words("tune --time-limit 0 --ops statistics --dtypes f32 --threads 1"));
    // Each moment is random within the run time of the command.
    let durations: Vec<_> = commands
        .iter()
        .map(|arguments| {
            let start = Instant::now();
            assert!(finish(&mut writers.files.command(LION, arguments)).status.success(), "{arguments:?}");
            start.elapsed()
        })
        .collect();
    let mut killed = 0;
    for (index, arguments) in (0..4).flat_map(|_| commands.iter().enumerate()) {
        let writer = writers.all.get(index);
        let mut command = match writer {
            Some(writer) => writers.prepare(writer),
            None => writers.files.command(LION, arguments),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        std::thread::sleep(durations[index].mul_f64(random.f64()));
        child.kill().expect("killed");
        let status = child.wait().expect("it has ended");
        killed += usize::from(status.signal() == Some(SIGKILL));
        if let Some(writer) = writer {
            let is_new = writer.is_new();
            assert!(status.success() <= is_new, "{arguments:?}");
        }
        let done = finish(&mut writers.files.command(LION, arguments));
        assert!(done.status.success(), "{arguments:?}: {done:?}");
        if let Some(writer) = writer {
            assert!(writer.is_new() && writers.others(writer).is_empty(), "{arguments:?}");
        }
        // A report can be drawn from the log, or fails with one line.
        let report = finish(&mut writers.files.lion(&["report", "--output", &output]));
        if !report.status.success() {
            failed_at(&report, &record);
        }
    }
    assert!(killed >= commands.len(), "only {killed} were killed");
}
