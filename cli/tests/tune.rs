//! `lion tune`, `lion profile` and `lion report` as processes, each with its own home.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::{TempDir, tempdir};

/// A home with settings and cache.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Home(tempdir().expect("a folder"))
    }

    fn profile(&self) -> PathBuf {
        self.0.path().join(".config/lion/profile.toml")
    }

    fn record(&self) -> PathBuf {
        self.0.path().join(".cache/lion/tuning.jsonl")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        at_home(self.0.path(), arguments)
    }

    fn lion(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    /// Asserts success and returns stdout.
    fn done(&self, arguments: &[&str]) -> String {
        let done = self.lion(arguments);
        assert_eq!(done.status.code(), Some(0), "{arguments:?}: {}", said(&done));
        String::from_utf8(done.stdout).expect("text")
    }

    /// Tunes one operation in one format, which takes about a second.
    fn tuned(&self) -> String {
        self.done(&QUICK)
    }
}

const QUICK: [&str; 7] = ["tune", "--time-limit", "1", "--ops", "statistics", "--dtypes", "f32"];

fn at_home(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lion"));
    for name in ["LION_ISA", "LION_PROFILE", "LION_NO_PROFILE", "LION_CHUNK", "LION_NUM_THREADS"] {
        command.env_remove(name);
    }
    for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
        command.env_remove(name);
    }
    command.env("HOME", home).args(arguments);
    command
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// Asserts an exit status of 1 and a last line on stderr that contains `expected`.
fn fails(done: &Output, expected: &str) {
    let said = said(done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(
        said.lines().last().is_some_and(|line| line.starts_with("lion: ") && line.contains(expected)),
        "{said}"
    );
}

#[test]
fn a_profile_is_measured_shown_compared_and_cleared() {
    let home = Home::new();
    assert_eq!(home.done(&["profile", "path"]), format!("{}\n", home.profile().display()));
    assert!(home.done(&["profile", "show"]).contains("built in"));
    fails(&home.lion(&["profile", "verify"]), "no profile file is in use");

    let table = home.tuned();
    assert!(table.contains("| statistics | f32/f32/f32 | 16 KiB |"), "{table}");
    let shown = home.done(&["profile", "show"]);
    assert!(
        shown.contains("profile.toml (the user's): of this machine\n") && shown.contains(&table),
        "{shown}"
    );
    assert!(home.done(&["doctor"]).contains("profile.toml (the user's)"));

    let path = home.profile().to_string_lossy().into_owned();
    assert_eq!(home.done(&["profile", "diff", &path, &path]), "");
    let other = home.0.path().join("other.toml").to_string_lossy().into_owned();
    home.done(&["tune", "--level", "estimate", "--ops", "convert", "--output", &other]);
    let differences = home.done(&["profile", "diff", &path, &other]);
    assert!(differences.contains("statistics f32/f32/f32 16 KiB: ") && differences.contains(" | none\n"));
    let merged = home.0.path().join("merged.toml").to_string_lossy().into_owned();
    home.done(&["profile", "merge", &path, &other, "--output", &merged]);
    let shown = home.done(&["profile", "show", &merged]);
    assert!(shown.contains("| statistics |") && shown.contains("| convert |"), "{shown}");

    let verified = home.lion(&["profile", "verify", "--time-limit", "2", "--markdown"]);
    let table = String::from_utf8_lossy(&verified.stdout).into_owned();
    // On a busy machine plans may not hold. The test only asserts that some were measured.
    assert!(table.contains("# Regret of the tuned plans") && table.contains(" plans measured"), "{table}");

    let removed = home.done(&["profile", "clear"]);
    assert!(removed.contains("profile.toml") && removed.contains("tuning.jsonl"), "{removed}");
    assert!(!home.profile().exists() && !home.record().exists());
    assert_eq!(home.done(&["profile", "clear"]), "");
}

#[test]
fn a_dry_run_writes_nothing_and_json_has_every_measurement() {
    let home = Home::new();
    let text = home.done(&["tune", "--level", "estimate", "--dry-run"]);
    assert!(text.starts_with("schema = 1\n"), "{text}");
    assert_eq!(fs::read_dir(home.0.path()).expect("listed").count(), 0);

    let mut arguments = QUICK.to_vec();
    arguments.extend(["--json", "--dry-run"]);
    let json: serde_json::Value = serde_json::from_str(&home.done(&arguments)).expect("JSON");
    let findings = json["findings"].as_array().expect("a list");
    assert_eq!(findings.len(), json["profile"]["entry"].as_array().expect("a list").len());
    assert!(findings.iter().all(|it| !it["trials"].as_array().expect("a list").is_empty()));
}

#[test]
fn wrong_arguments_are_refused() {
    let home = Home::new();
    for wrong in [
        ["tune", "--level", "forever"],
        ["tune", "--time-limit", "-1"],
        ["tune", "--ops", "format"],
        ["tune", "--dtypes", "f64"],
        ["tune", "--threads", "0"],
    ] {
        let done = home.lion(&wrong);
        assert_eq!(done.status.code(), Some(2), "{wrong:?}: {}", said(&done));
    }
}

#[test]
fn a_time_has_one_range_whichever_command_takes_it() {
    let home = Home::new();
    let options =
        [&["tune", "--time-limit"][..], &["profile", "verify", "--time-limit"], &["bench", "--seconds"]];
    for option in options {
        for wrong in ["-1", "1000000.5", "1e19", "NaN", "inf", "soon", ""] {
            let (name, command) = option.split_last().expect("an option");
            let done = home.lion(&[command, &[&format!("{name}={wrong}")]].concat());
            let said = said(&done);
            assert_eq!(done.status.code(), Some(2), "{option:?} {wrong}: {said}");
            assert!(said.contains(&format!("'{wrong}'")) && said.contains("from 0 to 1000000"), "{said}");
        }
    }
    home.done(&["tune", "--level", "estimate", "--dry-run", "--time-limit", "1000000"]);
}

#[test]
fn a_dry_run_takes_no_output() {
    let home = Home::new();
    let output = home.0.path().join("profile.toml").to_string_lossy().into_owned();
    let done = home.lion(&["tune", "--level", "estimate", "--dry-run", "--output", &output]);
    assert_eq!(done.status.code(), Some(2), "{}", said(&done));
    assert!(said(&done).contains("--dry-run") && said(&done).contains("--output"), "{}", said(&done));
    assert!(done.stdout.is_empty() && !Path::new(&output).exists());
}

#[test]
fn homes_that_take_no_file_end_it_before_it_measures() {
    // Nobody may create a folder in /sys, not even root.
    for home in ["/sys", "/dev/null"] {
        let done = at_home(Path::new(home), &QUICK).output().expect("it runs");
        fails(&done, ".config/lion/profile.toml: cannot create its folder: ");
        assert!(done.stdout.is_empty());
        // A file elsewhere needs no home, and a missing log is only a warning.
        let folder = tempdir().expect("a folder");
        let output = folder.path().join("profile.toml").to_string_lossy().into_owned();
        let mut arguments = QUICK.to_vec();
        arguments.extend(["--output", &output]);
        let done = at_home(Path::new(home), &arguments).output().expect("it runs");
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
        assert!(said(&done).contains("warning: the measurements are not logged: "), "{}", said(&done));
        assert!(Path::new(&output).exists());
    }
    fails(
        &at_home(Path::new("/sys"), &["report", "--output", "x.html"]).output().expect("it runs"),
        "cannot read",
    );
    let device = Home::new().lion(&["tune", "--level", "estimate", "--output", "/dev/full"]);
    fails(&device, "/dev/full: cannot write: is not a regular file");
}

/// A user unknown to the system has no home. Only root can become such a user.
#[test]
#[cfg(target_os = "linux")]
fn without_a_home_a_file_must_be_named() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;

    const NOBODY_KNOWN: u32 = 3_141_592;
    let folder = tempdir().expect("a folder");
    let all = fs::Permissions::from_mode(0o777);
    fs::set_permissions(folder.path(), all.clone()).expect("ours");
    let program = folder.path().join("lion");
    fs::copy(env!("CARGO_BIN_EXE_lion"), &program).expect("copied");
    fs::set_permissions(&program, all).expect("ours");
    let homeless = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.env_clear().current_dir("/").uid(NOBODY_KNOWN).gid(NOBODY_KNOWN).args(arguments);
        command.output()
    };
    match homeless(&["doctor"]) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return println!("skipped: this process cannot become another user: {error}");
        }
        done => {
            let done = done.expect("it runs");
            assert!(done.status.success() && done.stderr.is_empty(), "{}", said(&done));
        }
    }
    for arguments in [&QUICK[..], &["profile", "path"], &["profile", "clear"], &["report", "--output", "x"]] {
        let done = homeless(arguments).expect("it runs");
        fails(&done, "no home: this user has no directory for settings; name a file");
        assert!(done.stdout.is_empty());
    }
    let output = folder.path().join("profile.toml").to_string_lossy().into_owned();
    let mut named = QUICK.to_vec();
    named.extend(["--output", &output]);
    let done = homeless(&named).expect("it runs");
    assert!(done.status.success(), "{}", said(&done));
    assert!(Path::new(&output).exists());
}

/// A file size limit simulates a full disk.
#[test]
#[cfg(unix)]
fn a_full_disk_is_said_and_leaves_no_profile() {
    let home = Home::new();
    let shell = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", shell, env!("CARGO_BIN_EXE_lion")]).args(QUICK).env("HOME", home.0.path());
    command.env_remove("XDG_CONFIG_HOME").env_remove("XDG_CACHE_HOME").env_remove("LION_ISA");
    let done = command.output().expect("it runs");
    fails(&done, "profile.toml: cannot write: ");
    assert!(
        said(&done).contains("warning: ") && said(&done).contains("the measurements are not logged"),
        "{}",
        said(&done)
    );
    assert!(!home.profile().exists());
    let left = fs::read_dir(home.profile().parent().expect("a folder")).expect("listed").count();
    assert_eq!(left, 0);
}

#[test]
#[cfg(unix)]
fn a_report_that_does_not_fit_leaves_the_old_one() {
    let home = Home::new();
    home.tuned();
    let folder = home.0.path().join("pages");
    fs::create_dir(&folder).expect("made");
    let page = folder.join("report.html");
    fs::write(&page, "old").expect("written");
    let output = page.to_string_lossy().into_owned();
    let record = home.record().to_string_lossy().into_owned();
    let shell = "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", shell, env!("CARGO_BIN_EXE_lion"), "report", "--record", &record]);
    let done = command.args(["--output", &output]).output().expect("it runs");
    fails(&done, &format!("{output}: cannot write: File too large"));
    assert_eq!(fs::read(&page).expect("there"), b"old");
    assert_eq!(fs::read_dir(&folder).expect("listed").count(), 1);

    home.done(&["report", "--output", &output]);
    assert!(fs::read_to_string(&page).expect("a page").ends_with("</html>\n"));
    let mode = |path: &Path| {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).expect("there").permissions())
    };
    fs::write(folder.join("any"), "").expect("written");
    assert_eq!(mode(&page), mode(&folder.join("any")));
}

#[test]
fn bad_profiles_are_a_warning() {
    let home = Home::new();
    fs::create_dir_all(home.profile().parent().expect("a folder")).expect("made");
    fs::write(home.profile(), "schema = \"all\"").expect("written");
    let done = home.lion(&["doctor"]);
    assert_eq!(done.status.code(), Some(0));
    assert!(
        said(&done).contains("lion: warning: ") && said(&done).contains("using defaults"),
        "{}",
        said(&done)
    );
    let path = home.profile().to_string_lossy().into_owned();
    fails(&home.lion(&["profile", "show", &path]), "profile.toml: not a profile: line 1: ");
}

/// Starts a long tuning, and waits until it has measured some cases.
fn begun(home: &Home) -> Child {
    let arguments = ["tune", "--time-limit", "60", "--ops", "statistics", "--dtypes", "f32"];
    let child =
        home.command(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let patience = Instant::now();
    while cases(home) < 2 {
        assert!(patience.elapsed() < Duration::from_secs(300), "nothing is measured");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn cases(home: &Home) -> usize {
    let text = fs::read_to_string(home.record()).unwrap_or_default();
    text.matches("{\"finding\":").count()
}

#[test]
#[cfg(unix)]
fn a_tuning_that_is_stopped_goes_on() {
    let home = Home::new();
    let child = begun(&home);
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("it runs");
    assert!(interrupt.success());
    let done = child.wait_with_output().expect("it ends");
    fails(&done, "cases; the same command continues from there");
    assert!(!home.profile().exists());
    let before = fs::read_to_string(home.record()).expect("a record");
    let kept = cases(&home);
    assert!((2..8).contains(&kept), "{kept}");

    home.tuned();
    let after = fs::read_to_string(home.record()).expect("a record");
    assert!(after.starts_with(&before), "what was measured is measured again");
    assert_eq!(cases(&home), 8);
    // A finished tuning starts anew.
    home.tuned();
    assert!(!fs::read_to_string(home.record()).expect("a record").starts_with(&before));
}

#[test]
#[cfg(unix)]
fn a_killed_tuning_goes_on_too_and_two_do_not_disturb_each_other() {
    let home = Home::new();
    let mut first = begun(&home);
    let second = home.lion(&QUICK);
    assert_eq!(second.status.code(), Some(0), "{}", said(&second));
    assert!(said(&second).contains("another tuner is at work"), "{}", said(&second));
    assert!(home.profile().exists());
    first.kill().expect("killed");
    first.wait().expect("it ends");
    // Its last line may be incomplete.
    let kept = fs::read_to_string(home.record()).expect("a record");
    fs::write(home.record(), format!("{kept}{{\"finding\":{{\"ca")).expect("written");
    home.tuned();
    assert!(fs::read_to_string(home.record()).expect("a record").starts_with(&kept));
    home.done(&["profile", "show", &home.profile().to_string_lossy()]);
}
