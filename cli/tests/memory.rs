//! `lion replay` streams: it holds the state and the gradients of one step, however long the recording is.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use nix::sys::resource::{UsageWho, getrusage};
use tempfile::tempdir;

/// The number of elements of each variable.
const ELEMENTS: usize = 1 << 20;
const VARIABLES: [&str; 2] = ["a", "b"];
/// The bytes of one f32 tensor for each variable.
const STEP: usize = 4 * ELEMENTS * VARIABLES.len();
const STEPS: usize = (2_000_000_000_usize).div_ceil(STEP);
/// The memory of the program itself, and of aligning its buffers to huge pages.
const REST: usize = 16 << 20;

/// Writes a run of 2 GB as a sparse file: only the start of each tensor is written, the rest reads as zeros.
fn record(path: &Path) -> io::Result<()> {
    let mut header = String::from("{");
    let mut end = 0;
    let groups = ["param".to_owned()].into_iter().chain((0..STEPS).map(|step| format!("grad/{step}")));
    for (group, variable) in groups.flat_map(|group| VARIABLES.map(|name| (group.clone(), name))) {
        let begin = end;
        end += 4 * ELEMENTS;
        let comma = if begin == 0 { "" } else { "," };
        header += &format!(
            "{comma}\"{group}/{variable}\":{{\"dtype\":\"F32\",\"shape\":[{ELEMENTS}],\
             \"data_offsets\":[{begin},{end}]}}"
        );
    }
    header.push('}');
    let start = 8 + header.len();
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let file = file.into_inner()?;
    file.set_len((start + end) as u64)?;
    for tensor in 0..end / (4 * ELEMENTS) {
        let numbers = [1.0_f32 + tensor as f32; 256].map(f32::to_le_bytes);
        file.write_all_at(numbers.as_flattened(), (start + 4 * ELEMENTS * tensor) as u64)?;
    }
    Ok(())
}

#[test]
fn a_long_run_takes_the_memory_of_one_step() {
    let folder = tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let [run, config, output] = ["run.safetensors", "config.json", "result.safetensors"].map(path);
    if let Err(error) = record(&run) {
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        return println!("skipped: no room for a run of 2 GB in {}", folder.path().display());
    }
    assert!(run.metadata().expect("written").len() > 2_000_000_000);
    std::fs::write(&config, r#"{"use_ema": true, "gradient_accumulation_steps": 2}"#).expect("written");
    let done = Command::new(env!("CARGO_BIN_EXE_lion"))
        .args(["replay", "--config"])
        .arg(&config)
        .arg("--input")
        .arg(&run)
        .arg("--output")
        .arg(&output)
        .output()
        .expect("it runs");
    assert!(done.status.success(), "{done:?}");
    let result = lion::checkpoint::Checkpoint::read(&output).expect("a checkpoint");
    assert_eq!((result.iterations, result.variables.len()), (STEPS as u64, VARIABLES.len()));

    // The maximum over all children; this process starts only one.
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("known");
    let peak = usize::try_from(usage.max_rss()).expect("positive") * 1024;
    // Parameter, momentum, EMA and accumulator.
    let state = 4 * STEP;
    println!(
        "{STEPS} steps of {STEP} bytes: {peak} bytes at most, {} beside state and step",
        peak as isize - (state + STEP) as isize
    );
    assert!(peak >= state, "{peak} bytes cannot be");
    assert!(peak <= state + STEP + REST, "{peak} bytes, where state and one step are {}", state + STEP);
}
