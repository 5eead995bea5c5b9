//! The hot loops of the release build hold no out-of-line call, on any backend, for any formats.
//!
//! A function called in a loop would be compiled without the backend's instruction set and get its vectors through
//! memory. So this builds the kernels in release mode, disassembles them and looks into every loop.
//!
//! Needs objdump (binutils), which comes with the linker. `LION_ASSEMBLY_TARGET` names another target than this
//! machine's, and `LION_OBJDUMP` its objdump.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An instruction: its address, and what it does.
type Line<'a> = (u64, &'a str);

#[test]
fn hot_loops_hold_no_call() {
    let target = std::env::var("LION_ASSEMBLY_TARGET").ok();
    let listing = disassemble(&build(target.as_deref()));
    let kernels = kernels(&listing);

    let arm = target.as_deref().map_or(cfg!(target_arch = "aarch64"), |target| target.starts_with("aarch64"));
    let backends: &[(&str, &str)] = if arm {
        &[("scalar::Scalar", ""), ("neon::Neon", ".4s")]
    } else {
        &[("scalar::Scalar", ""), ("avx2::Avx2", "ymm"), ("avx512::Avx512", "zmm")]
    };
    let formats = ["f32", "half::binary16::f16", "half::bfloat::bf16"];
    for (backend, register) in backends {
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
                check(name, lines, register);
            }
        }
    }
}

/// Fails where a loop of the function calls, or where no loop works on the backend's registers.
fn check(name: &str, lines: &[Line<'_>], register: &str) {
    let loops = loops(lines);
    for body in &loops {
        for (address, text) in *body {
            let mnemonic = text.split_whitespace().next().unwrap_or_default();
            let calls = mnemonic.starts_with("call") || mnemonic == "bl" || mnemonic == "blr";
            assert!(!calls, "{name}: a loop calls at {address:x}: {text}");
        }
    }
    let vectorised = loops.iter().any(|body| body.iter().any(|(_, text)| text.contains(register)));
    assert!(vectorised, "{name}: no loop uses {register:?}");
}

/// The bodies of the innermost loops: from the target of a jump backwards to the jump.
fn loops<'a, 'b>(lines: &'b [Line<'a>]) -> Vec<&'b [Line<'a>]> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for (end, (address, text)) in lines.iter().enumerate() {
        let Some(target) = jump_target(text) else { continue };
        if target <= *address
            && let Ok(start) = lines.binary_search_by_key(&target, |(address, _)| *address)
        {
            ranges.push((start, end));
        }
    }
    let holds_another = |outer: &(usize, usize)| {
        ranges.iter().any(|inner| inner != outer && outer.0 <= inner.0 && inner.1 <= outer.1)
    };
    ranges.iter().filter(|range| !holds_another(range)).map(|(start, end)| &lines[*start..=*end]).collect()
}

/// Where a direct jump goes: objdump writes `jne 1f <name+0x1f>` and `b.ne 1f <name+0x1f>`.
fn jump_target(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace();
    let mnemonic = words.next()?;
    if !(mnemonic.starts_with('j')
        || mnemonic == "b"
        || mnemonic.starts_with("b.")
        || mnemonic.starts_with("cb")
        || mnemonic.starts_with("tb"))
    {
        return None;
    }
    let operands: Vec<_> = words.collect();
    let place = operands.iter().position(|word| word.starts_with('<'))?;
    u64::from_str_radix(operands.get(place.checked_sub(1)?)?, 16).ok()
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
    let status = cargo.status().expect("cargo can be started");
    assert!(status.success(), "the release build fails");
    directory.join(target.unwrap_or_default()).join("release").join("liblion_kernels.rlib")
}

fn disassemble(library: &Path) -> String {
    let objdump = std::env::var("LION_OBJDUMP").unwrap_or("objdump".into());
    let output = Command::new(&objdump)
        .args(["-d", "--no-show-raw-insn"])
        .arg(library)
        .output()
        .unwrap_or_else(|error| panic!("{objdump} (of the package binutils) cannot be started: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The instructions of each kernel's function, by its name in Rust.
fn kernels(listing: &str) -> BTreeMap<String, Vec<Line<'_>>> {
    let mut kernels = BTreeMap::<String, Vec<Line<'_>>>::new();
    let mut name = None;
    for line in listing.lines() {
        if let Some(symbol) = line.strip_suffix(">:").and_then(|line| line.split_once('<')) {
            let demangled = format!("{:#}", rustc_demangle::demangle(symbol.1));
            name = demangled.contains("Isa>::run::enter").then_some(demangled);
        } else if let (Some(name), Some((address, text))) = (&name, line.split_once(':'))
            && let Ok(address) = u64::from_str_radix(address.trim(), 16)
        {
            kernels.entry(name.clone()).or_default().push((address, text.trim()));
        }
    }
    kernels
}
