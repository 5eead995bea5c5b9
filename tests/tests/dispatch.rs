//! Backend selection, by the machine and by `LION_ISA`.

use std::process::Command;

use lion_kernels::Backend;

/// Set in the child processes of these tests, in which the same test only prints its result.
const REPORT: &str = "LION_TEST_REPORTS_ITS_BACKEND";

/// Returns the backend that a process with this `LION_ISA` selects.
fn chosen(isa: Option<&str>) -> String {
    let mut process = Command::new(std::env::current_exe().expect("a path"));
    process
        .args(["--exact", "the_environment_chooses", "--nocapture"])
        .env(REPORT, "1")
        .env_remove("LION_ISA");
    if let Some(isa) = isa {
        process.env("LION_ISA", isa);
    }
    let output = process.output().expect("the process runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.split_once("chosen: "));
    line.map(|(_, choice)| choice.to_owned()).unwrap_or(text)
}

#[test]
fn the_environment_chooses() {
    if std::env::var_os(REPORT).is_some() {
        match Backend::from_env() {
            Ok(backend) => println!("\nchosen: {backend}"),
            Err(error) => println!("\nchosen: {error}"),
        }
        return;
    }
    let best = Backend::best().name();
    assert_eq!(chosen(None), best);
    assert_eq!(chosen(Some("auto")), best);
    assert_eq!(chosen(Some("")), best);
    for backend in Backend::available() {
        assert_eq!(chosen(Some(backend.name())), backend.name());
    }
    for wrong in ["AVX2", "sse9"] {
        let message = chosen(Some(wrong));
        assert!(message.contains("does not exist") && message.contains("scalar"), "{wrong:?}: {message}");
    }
    for backend in Backend::ALL.iter().filter(|backend| !backend.is_available()) {
        let message = chosen(Some(backend.name()));
        assert!(message.contains("is not available on this machine"), "{message}");
    }
}

#[test]
fn the_best_backend_is_the_last_available_one() {
    assert_eq!(Backend::available().last(), Some(Backend::best()));
    assert!(Backend::Scalar.is_available());
    assert_eq!(Backend::available().count(), Backend::ALL.iter().filter(|it| it.is_available()).count());
}

/// The library detects the same backends as the operating system reports.
#[test]
fn detection_agrees_with_the_operating_system() {
    let Ok(cpuinfo) = std::fs::read_to_string("/proc/cpuinfo") else {
        println!("skipped: there is no /proc/cpuinfo");
        return;
    };
    let Some(flags) = cpuinfo.lines().find(|line| line.starts_with("flags")) else {
        println!("skipped: /proc/cpuinfo has no flags");
        return;
    };
    let has = |names: &[&str]| names.iter().all(|name| flags.split_whitespace().any(|flag| flag == *name));
    if cfg!(target_arch = "x86_64") {
        assert_eq!(Backend::Avx2.is_available(), has(&["avx2", "fma", "f16c"]));
        let avx512 = has(&["avx512f", "avx512bw", "avx512vl", "avx512dq"]);
        assert_eq!(Backend::Avx512.is_available(), avx512);
        assert_eq!(Backend::Avx512Bf16.is_available(), avx512 && has(&["avx512_bf16"]));
    }
}
