//! The text of `lion doctor`.

use std::fmt::Write as _;
use std::fs;

use lion_kernels::Backend;

use crate::text::known;
use crate::{Environment, Machine, Profile};

/// The environment variables that the libraries read.
const ENVIRONMENT: [&str; 5] =
    ["LION_ISA", "LION_NUM_THREADS", "LION_CHUNK", "LION_PROFILE", "LION_NO_PROFILE"];

const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Describes what the optimizer finds on this machine, a line each: processor, backends, huge pages, cores, environment,
/// profile.
pub fn doctor() -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<12} {value}");
    };
    line("cpu", &cpu_model());
    let available: Vec<_> = Backend::available().map(Backend::name).collect();
    line("backends", &available.join(", "));
    match Backend::from_env() {
        Ok(chosen) => line("chosen", chosen.name()),
        Err(error) => line("chosen", &format!("none: LION_ISA: {error}")),
    }
    line("huge pages", &huge_pages());
    let machine = Machine::detect();
    line("cores", &cores(&machine));
    for name in ENVIRONMENT {
        let value = std::env::var_os(name);
        line(name, &value.map_or("not set".into(), |value| format!("{value:?}")));
    }
    let profile = Profile::found_in(&Environment::of_process(), &machine);
    line("profile", &profile.source().to_string());
    text
}

/// Reads the value of `key` in a file of `/proc`.
fn proc_entry(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let entry = |line: &str| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == key && !value.trim().is_empty()).then(|| value.trim().to_owned())
    };
    text.lines().find_map(entry)
}

fn cpu_model() -> String {
    let model =
        ["model name", "CPU part", "Hardware"].iter().find_map(|key| proc_entry("/proc/cpuinfo", key));
    let model = model.unwrap_or_else(|| "unknown model".into());
    format!("{model} ({})", std::env::consts::ARCH)
}

/// Returns the active mode, which is in brackets.
fn huge_pages() -> String {
    let Ok(text) = fs::read_to_string(HUGE_PAGES) else { return format!("unknown: no {HUGE_PAGES}") };
    let mode = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(mode, _)| mode);
    match mode {
        Some("always") => "always".into(),
        Some("madvise") => "madvise (large state asks for them)".into(),
        Some("never") => "never (large tensors are slower)".into(),
        Some(other) => other.into(),
        None => known(text.trim()).into(),
    }
}

/// Describes the usable cores, which affinity and quota may limit.
fn cores(machine: &Machine) -> String {
    let mut text = format!("{} usable", machine.cores);
    if let Some(affinity) = proc_entry("/proc/self/status", "Cpus_allowed_list") {
        text.push_str(&format!("; affinity {affinity}"));
    }
    if let Some(quota) = machine.quota {
        text.push_str(&format!("; quota {quota}"));
    }
    text
}
