//! The kernels of the release build, with their hot loops, hold no out-of-line call, on any backend, for any formats.
//!
//! A function called in a loop would be compiled without the backend's instruction set and get its vectors through
//! memory. So this builds the kernels in release mode, disassembles them and looks at every instruction.
//!
//! Needs objdump (binutils), which comes with the linker. `LION_ASSEMBLY_TARGET` names another target than this
//! machine's, `LION_ASSEMBLY_RUSTC` the compiler that knows it, and `LION_OBJDUMP` its objdump.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn kernels_hold_no_call() {
    let target = std::env::var("LION_ASSEMBLY_TARGET").ok();
    let listing = disassemble(&build(target.as_deref()));
    let kernels = kernels(&listing);

    let arm = target.as_deref().map_or(cfg!(target_arch = "aarch64"), |target| target.starts_with("aarch64"));
    // The letters before the numbers of the registers that hold vectors.
    let backends: &[(&str, &[&str])] = if arm {
        &[("scalar::Scalar", &[]), ("neon::Neon", &["v", "q", "d"])]
    } else {
        &[("scalar::Scalar", &[]), ("avx2::Avx2", &["ymm"]), ("avx512::Avx512", &["zmm"])]
    };
    let formats = ["f32", "half::binary16::f16", "half::bfloat::bf16"];
    for (backend, registers) in backends {
        let mut expected = Vec::new();
        for p in formats {
            for g in formats {
                expected.push(format!("Convert<{p}, {g}>"));
                for m in formats {
                    expected.push(format!("Bare<({p}, {g}, {m}), false>"));
                    expected.push(format!("Bare<({p}, {g}, {m}), true>"));
                    expected.push(format!("Full<({p}, {g}, {m})>"));
                }
            }
            for kernel in ["Accumulate", "Average", "Block"] {
                expected.push(format!("{kernel}<{p}>"));
            }
        }
        for kernel in expected {
            let found: Vec<_> = kernels
                .iter()
                .filter(|(name, _)| name.contains(backend) && name.contains(&format!("::{kernel}>")))
                .collect();
            assert_eq!(found.len(), 1, "functions of {kernel} on {backend}");
            for (name, lines) in found {
                check(name, lines, registers);
            }
        }
    }
}

/// Fails where the function calls another, or does not work on the backend's registers.
fn check(name: &str, lines: &[&str], registers: &[&str]) {
    for text in lines {
        let mnemonic = text.split_whitespace().next().unwrap_or_default();
        let calls = mnemonic.starts_with("call") || mnemonic == "bl" || mnemonic == "blr";
        assert!(!calls, "{name} calls: {text}");
    }
    let vectorised = lines.iter().any(|text| holds_vector(text, registers));
    assert!(registers.is_empty() || vectorised, "{name} uses no register of {registers:?}");
}

/// Whether an operand of the instruction, which is no jump, is one of these registers.
fn holds_vector(text: &str, registers: &[&str]) -> bool {
    let jumps = text.starts_with('b') || text.starts_with('j') || text.contains('<');
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    !jumps
        && words.any(|word| {
            let number = registers.iter().find_map(|register| word.strip_prefix(register));
            number
                .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
        })
}

/// Builds the kernels as a user would, but with symbols that say the types; gives the library's path.
fn build(target: Option<&str>) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let directory = root.join("target").join("assembly");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(&root).args(["build", "--release", "--quiet", "-p", "lion-kernels", "--target-dir"]);
    cargo.arg(&directory).env("RUSTFLAGS", "-Csymbol-mangling-version=v0");
    if let Some(target) = target {
        cargo.args(["--target", target]);
    }
    // Another compiler may be the one that knows the target.
    if let Some(compiler) = std::env::var_os("LION_ASSEMBLY_RUSTC") {
        cargo.env("RUSTC", compiler);
    }
    let status = cargo.status().expect("cargo can be started");
    assert!(status.success(), "the release build fails");
    let built = target.map_or(directory.clone(), |target| directory.join(target));
    built.join("release").join("liblion_kernels.rlib")
}

fn disassemble(library: &Path) -> String {
    let objdump = std::env::var("LION_OBJDUMP").unwrap_or("objdump".into());
    let output = Command::new(&objdump)
        .args(["-d", "-r", "--no-show-raw-insn"])
        .arg(library)
        .output()
        .unwrap_or_else(|error| panic!("{objdump} (of the package binutils) cannot be started: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The instructions of each kernel's function, by its name in Rust.
fn kernels(listing: &str) -> BTreeMap<String, Vec<&str>> {
    let mut kernels = BTreeMap::<String, Vec<&str>>::new();
    let mut name = None;
    for line in listing.lines() {
        if let Some((_, symbol)) = line.strip_suffix(">:").and_then(|line| line.split_once('<')) {
            let demangled = format!("{:#}", rustc_demangle::demangle(symbol));
            name = demangled.contains("Isa>::run::enter").then_some(demangled);
        } else if let (Some(name), Some((_, text))) = (&name, line.split_once(":\t")) {
            kernels.entry(name.clone()).or_default().push(text.trim());
        }
    }
    kernels
}
