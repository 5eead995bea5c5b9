//! Starts jobs under `mpirun`, each under `timeout`: a job that hangs fails.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// Longer than any job here takes on two busy cores; a hang takes as long.
const PATIENCE: &str = "120";

/// One job at a time: ranks that share a core wait for each other as it is.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn example(name: &str) -> PathBuf {
    // Cargo leaves examples out if it is told which tests to run.
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--examples"]);
        cargo.args(if cfg!(debug_assertions) { None } else { Some("--release") });
        assert!(cargo.status().expect("cargo can be started").success(), "the examples are not built");
    });
    let own = std::env::current_exe().expect("a path");
    let folder = own.parent().and_then(Path::parent).expect("a folder of build results");
    folder.join("examples").join(name)
}

pub(crate) fn job(ranks: usize, program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", PATIENCE, "mpirun", "-n", &ranks.to_string()])
        .arg(program)
        .args(arguments);
    // The superuser may, on more ranks than there are cores.
    for name in
        ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe"]
    {
        command.env(name, "1");
    }
    command.env("RUST_BACKTRACE", "0");
    command
}

pub(crate) fn run(ranks: usize, program: &Path, arguments: &[&str]) -> Output {
    job(ranks, program, arguments).output().expect("timeout and mpirun are installed")
}

/// What a job that must go right prints.
pub(crate) fn printed(ranks: usize, program: &Path, arguments: &[&str]) -> String {
    let output = run(ranks, program, arguments);
    assert!(output.status.success(), "{ranks} ranks, {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
