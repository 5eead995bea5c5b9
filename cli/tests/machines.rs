//! Poor and hostile machines: pipes and devices instead of files, no /proc and no /sys, no home, closed outputs, a terminal
//! that is closed. Each command terminates: it succeeds, or fails with one line.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::process::{Command, Output, Stdio};

use common::{Files, LION, failed_at, finish, said, skip, wait};

/// Things that are not a profile, and the expected warning for each.
fn profiles(files: &Files) -> Vec<(String, &'static str)> {
    let pipe = files.text("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("it runs").success());
    let huge = files.path("huge.toml");
    fs::File::create(&huge).expect("made").set_len(1 << 40).expect("a file with a hole");
    vec![
        (pipe, "cannot open: is a pipe; expected a regular file"),
        ("/dev/zero".into(), "cannot open: is a device; expected a regular file"),
        ("/dev/tty".into(), "cannot open: is a device; expected a regular file"),
        (files.text("."), "cannot open: is a directory; expected a regular file"),
        (files.text("huge.toml"), "cannot read: has more than 524288 bytes"),
    ]
}

/// A bad profile causes a warning, and neither stops nor blocks a run.
#[test]
fn profiles_that_are_no_files() {
    let files = Files::new();
    let replay = files.replay("plain.safetensors");
    assert!(finish(&mut files.command(LION, &replay)).status.success());
    let plain = fs::read(files.path("plain.safetensors")).expect("written");
    for (profile, expected) in profiles(&files) {
        for arguments in [files.replay("result.safetensors"), vec!["doctor".into()]] {
            let done = finish(files.command(LION, &arguments).env("LION_PROFILE", &profile));
            assert!(done.status.success(), "{profile}: {done:?}");
            assert_eq!(said(&done), format!("lion: warning: {profile}: {expected}; using defaults\n"));
        }
        let result = fs::read(files.path("result.safetensors")).expect("written");
        assert!(result == plain, "{profile}: other bits");
        // If the command names the file, a bad one is an error.
        for verb in ["show", "verify"] {
            let done = finish(&mut files.lion(&["profile", verb, &profile]));
            failed_at(&done, &format!("{profile}: {expected}"));
        }
    }
}

/// The command refuses a config, run or state that is a pipe without a writer, instead of waiting.
#[test]
fn inputs_that_are_no_files() {
    let files = Files::new();
    let pipe = files.text("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("it runs").success());
    for option in ["--config", "--input", "--state"] {
        let mut arguments = files.replay("result.safetensors");
        match arguments.iter().position(|word| word == option) {
            Some(at) => arguments[at + 1] = pipe.clone(),
            None => arguments.extend([option.to_owned(), pipe.clone()]),
        }
        let done = finish(&mut files.command(LION, &arguments));
        failed_at(&done, &format!("{pipe}: "));
        assert!(said(&done).contains("regular file"), "{done:?}");
        assert!(!files.path("result.safetensors").exists(), "{option}");
    }
}

/// The log of a tuning is opened for reading and writing. Opening a pipe so would not block, but reading it would never
/// end.
#[test]
fn records_that_are_no_files() {
    let files = Files::new();
    fs::create_dir_all(files.path(".cache/lion")).expect("made");
    let record = files.text(".cache/lion/tuning.jsonl");
    assert!(Command::new("mkfifo").arg(&record).status().expect("it runs").success());
    let output = files.text("page.html");
    let done = finish(&mut files.lion(&["report", "--output", &output]));
    failed_at(&done, &format!("{record}: cannot read: is a pipe; expected a regular file"));
    let quick = ["tune", "--time-limit", "0", "--ops", "statistics", "--dtypes", "f32", "--threads", "1"];
    let done = finish(&mut files.lion(&quick));
    assert!(done.status.success(), "{done:?}");
    assert!(said(&done).contains(&format!("{record}: cannot open: is a pipe")), "{done:?}");
}

/// The Ctrl-C handler needs a thread. If it gets none, the command warns and does its work.
#[test]
fn ctrl_c_that_cannot_be_listened_for() {
    let files = Files::new();
    // The handler's thread is the first that the process starts.
    let no_thread = ["-f", "-qqq", "-o", "/dev/null", "-e", "signal=none", "-e", "trace=clone,clone3"];
    let trace = |arguments: &[&str]| {
        let words = [&no_thread[..], &["-e", "inject=clone,clone3:error=EAGAIN:when=1"], arguments].concat();
        files.command("strace", &words.iter().map(|word| word.to_string()).collect::<Vec<_>>())
    };
    if !trace(&["true"]).output().is_ok_and(|done| done.status.success()) {
        return skip("no strace that may trace a process");
    }
    for command in ["bench --seconds 0 --sizes 1K --threads 1", "tune --level estimate --dry-run --ops step"]
    {
        let words: Vec<&str> = [LION].into_iter().chain(command.split(' ')).collect();
        let done = finish(&mut trace(&words));
        assert!(done.status.success() && !done.stdout.is_empty(), "{command}: {done:?}");
        assert!(said(&done).starts_with("lion: warning: Ctrl-C ends the measurement at once: "), "{done:?}");
        assert_eq!(said(&done).lines().count(), 1, "{done:?}");
    }
}

/// Runs every command after a shell script that changes the system around it. Skips if that is not permitted.
fn everywhere(files: &Files, around: &str, mut then: impl FnMut(&[String], &Output)) {
    let shell = |script: &str, arguments: &[String]| {
        let words = ["-m", "sh", "-c", script, LION].map(str::to_owned);
        finish(&mut files.command("unshare", &[&words[..], arguments].concat()))
    };
    if !shell(around, &[]).status.success() {
        return skip("this user may not change what is mounted");
    }
    for arguments in files.every_command() {
        let done = shell(&format!("{around} && exec \"$0\" \"$@\""), &arguments);
        then(&arguments, &done);
    }
}

/// Returns whether a line has a name without a value, such as `huge pages:` at its end, or `(x86-64), ,`.
fn has_empty_value(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_end();
        line.ends_with(':') && !line.starts_with("lion:") || line.contains("\"\"") || line.contains(": ,")
    })
}

#[test]
fn no_sys_and_no_proc() {
    for gone in ["/sys", "/proc", "/sys /proc"] {
        let files = Files::new();
        let around = gone
            .split(' ')
            .map(|folder| format!("mount -t tmpfs none {folder}"))
            .collect::<Vec<_>>()
            .join(" && ");
        let mut seen = 0;
        everywhere(&files, &around, |arguments, done| {
            assert!(done.status.success(), "without {gone}: {arguments:?}: {done:?}");
            assert!(done.stderr.is_empty(), "without {gone}: {arguments:?}: {done:?}");
            let text = String::from_utf8_lossy(&done.stdout);
            assert!(!has_empty_value(&text), "without {gone}: {arguments:?}: {text}");
            if arguments == ["doctor"] && gone.starts_with("/sys") {
                assert!(text.contains("huge pages   unknown: no /sys/kernel/mm"), "{text}");
            }
            seen += 1;
        });
        assert!(seen == 0 || seen == files.every_command().len());
    }
}

#[test]
fn no_home() {
    let files = Files::new();
    let mut homeless = files.replay("result.safetensors");
    let run = |arguments: &[String]| {
        let mut command = files.command(LION, arguments);
        finish(command.env("HOME", "").env_remove("XDG_RUNTIME_DIR"))
    };
    assert!(run(&homeless).status.success());
    homeless = vec!["doctor".into()];
    assert!(run(&homeless).status.success());
    // The home does not exist, is a file, or is a device: the log causes a warning, the profile an error.
    for (home, place) in [("/nowhere/home", "/nowhere"), ("/dev/null", "/dev/null/.config/lion/profile.toml")]
    {
        let run = |arguments: &[&str]| finish(files.lion(arguments).env("HOME", home));
        for arguments in [&["doctor"][..], &["profile", "show"], &["profile", "path"]] {
            assert!(run(arguments).status.success(), "{home}: {arguments:?}");
        }
        // The superuser may create any folder, except below a device.
        if home == "/dev/null" {
            failed_at(&run(&["tune", "--level", "estimate", "--ops", "step"]), place);
            failed_at(&run(&["report", "--output", &files.text("page.html")]), "/dev/null/.cache");
        }
    }
}

/// stdout and stderr are closed before the command starts: no file that it opens may take their place.
#[test]
fn closed_outputs() {
    let files = Files::new();
    for closed in [">&-", "2>&-", "<&- >&- 2>&-"] {
        for arguments in files.every_command() {
            let script = format!("exec \"$0\" \"$@\" {closed}");
            let words = ["-c".to_owned(), script, LION.to_owned()];
            let done = finish(&mut files.command("sh", &[&words[..], &arguments].concat()));
            // Rust opens /dev/null for each of them.
            assert!(done.status.success(), "{closed} {arguments:?}: {done:?}");
        }
        let result = fs::read(files.path("result.safetensors")).expect("written");
        let plain = files.replay("plain.safetensors");
        assert!(finish(&mut files.command(LION, &plain)).status.success());
        assert!(result == fs::read(files.path("plain.safetensors")).expect("written"), "{closed}");
    }
}

/// Output to a full disk: one line on stderr, and 1. Holds for every command that prints, also if stderr is full.
#[test]
fn full_outputs() {
    let files = Files::new();
    let full = || fs::File::options().write(true).open("/dev/full").expect("Linux has one");
    for arguments in files.every_command().into_iter().skip(1) {
        let mut command = files.command(LION, &arguments);
        let child =
            command.stdin(Stdio::null()).stdout(full()).stderr(Stdio::piped()).spawn().expect("it starts");
        let done = child.wait_with_output().expect("it ends");
        assert_eq!(done.status.code(), Some(1), "{arguments:?}: {done:?}");
        let said = said(&done);
        assert!(said.starts_with("lion: stdout: ") && said.lines().count() == 1, "{arguments:?}: {said:?}");
        let mut child = command.stdout(full()).stderr(full()).spawn().expect("it starts");
        assert_eq!(wait(&mut child).and_then(|status| status.code()), Some(1), "{arguments:?}");
    }
}

/// The terminal of a replay is closed while it draws its progress. If no signal ends the replay, writes to the terminal
/// fail, and the replay still writes its result.
#[test]
fn a_terminal_that_goes_away() {
    const SCRIPT: &str = r#"
import os, pty, signal, sys
ready, begun = os.pipe()
pid, terminal = pty.fork()
if pid == 0:
    signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[1] == "ignored" else signal.SIG_DFL)
    os.write(begun, b"!")
    os.execv(sys.argv[2], sys.argv[2:])
# Not before the child has the terminal.
os.read(ready, 1)
os.close(terminal)
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status))
"#;
    let files = Files::new();
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("there is no python3 to make a terminal");
    }
    for hangup in ["ignored", "default"] {
        for arguments in files.every_command() {
            let words = ["-c".to_owned(), SCRIPT.into(), hangup.into(), LION.into()];
            let done = finish(&mut files.command("python3", &[&words[..], &arguments].concat()));
            assert!(done.status.success(), "{done:?}");
            let code: i32 = String::from_utf8_lossy(&done.stdout).trim().parse().expect("a number");
            // 0; or 1 if stdout is gone; or SIGHUP if it is not ignored. Not 101 (a panic), nor another signal (a crash).
            let allowed = if hangup == "ignored" { &[0, 1][..] } else { &[0, 1, -1] };
            assert!(allowed.contains(&code), "{hangup}: {arguments:?}: {code}");
            let replayed = files.path("result.safetensors");
            if arguments[0] == "replay" && hangup == "ignored" {
                assert_eq!(code, 0);
                assert!(replayed.exists());
            }
            // After SIGHUP there is a whole file or none.
            if let Ok(found) = fs::read(&replayed) {
                let plain = files.replay("plain.safetensors");
                assert!(finish(&mut files.command(LION, &plain)).status.success());
                assert!(found == fs::read(files.path("plain.safetensors")).expect("written"));
            }
        }
    }
}
