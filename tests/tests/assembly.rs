//! The hot loops of the release build contain no out-of-line call, on any backend, for any formats.
//!
//! A function called in a loop would be compiled without the backend's instruction set and would receive vectors
//! through memory. So this test builds the kernels in release mode, disassembles them, and checks every instruction.
//! Kernels that drive other kernels tile by tile may call these and nothing else.
//!
//! Requires objdump (binutils), which comes with the linker. `LION_ASSEMBLY_TARGET` sets another target than this
//! machine's, `LION_ASSEMBLY_RUSTC` a compiler for that target, and `LION_OBJDUMP` its objdump.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn kernels_hold_no_call() {
    let target = std::env::var("LION_ASSEMBLY_TARGET").ok();
    let listing = disassemble(&build(target.as_deref()));
    let kernels = kernels(&listing);

    let arm = target.as_deref().map_or(cfg!(target_arch = "aarch64"), |target| target.starts_with("aarch64"));
    // The name prefixes of the vector registers.
    let backends: &[(&str, &[&str])] = if arm {
        &[("scalar::Scalar", &[]), ("neon::Neon", &["v", "q", "d"])]
    } else {
        &[
            ("scalar::Scalar", &[]),
            ("avx2::Avx2", &["ymm"]),
            ("<() as lion_kernels::isa::avx512::", &["zmm"]),
            ("avx512::bf16::Bf16", &["zmm"]),
        ]
    };
    for (backend, registers) in backends {
        let own: Vec<_> = kernels.iter().filter(|(name, _)| name.contains(backend)).collect();
        for kernel in expected(registers.is_empty()) {
            let found = own.iter().filter(|(name, _)| name.contains(&format!("::{kernel}>"))).count();
            assert_eq!(found, 1, "functions of {kernel} on {backend}");
        }
        for (name, lines) in own {
            // A row has a loop, and calls tiles for a copy in a format without a lane codec.
            let row_or_tiles = name.contains("FullRow<");
            match drives_others(name, registers.is_empty()) || row_or_tiles {
                true => check_driver(name, lines),
                false => check_no_call(name, lines),
            }
            if !drives_others(name, registers.is_empty()) {
                check_registers(name, lines, registers);
            }
        }
    }
}

/// Returns the kernels that each backend must have. The scalar backend uses tiles instead of some.
fn expected(scalar: bool) -> Vec<String> {
    let rule = "lion_kernels::rule::";
    let (f16, bf16) = ("half::binary16::f16", "half::bfloat::bf16");
    let (split, q8) = ("lion_kernels::format::split::Split", "lion_kernels::format::q8::Q8");
    let rows = [
        format!("({F32}, {F32}, {F32})"),
        format!("({F32}, {bf16}, {F32})"),
        format!("({bf16}, {bf16}, {bf16})"),
        format!("({f16}, {f16}, {f16})"),
        format!("({bf16}, {bf16}, {F32})"),
        format!("({split}, {bf16}, {bf16})"),
    ];
    let rounding = "lion_kernels::engine::fused::";
    let mut expected = Vec::new();
    for decay in ["NoDecay", "PlainDecay", "MaskedDecay"] {
        // The scalar backend uses tiles for these rows, and the compiler merges identical functions.
        for row in rows.iter().filter(|_| !scalar) {
            expected.push(format!("FullRow<{row}, {rule}{decay}>"));
            for scale in ["Unscaled", "Scaled"] {
                expected.push(format!("BareRow<{row}, {rule}{decay}, {rule}{scale}, {rounding}Nearest>"));
            }
        }
        // Rows whose momentum may be in 8 bits.
        for row in [&rows[0], &rows[1], &rows[4]].into_iter().filter(|_| !scalar) {
            expected.push(format!("CodedStep<{row}, {rule}{decay}, {rule}Unscaled, {rounding}Nearest>"));
        }
        if !scalar {
            let bf16 = &rows[2];
            expected.push(format!("BareRow<{bf16}, {rule}{decay}, {rule}Unscaled, {rounding}Stochastic>"));
            let row = &rows[4];
            expected.push(format!("CodedStep<{row}, {rule}{decay}, {rule}Unscaled, {rounding}Stochastic>"));
        }
        expected.push(format!("Bare<{}, {rule}{decay}, {rule}Unscaled, {rounding}Nearest>", rows[0]));
        expected.push(format!("Full<{}, {rule}{decay}>", rows[0]));
    }
    for format in [F32, f16, bf16] {
        expected.extend(["Decode", "Encode"].map(|kernel| format!("{kernel}<{format}>")));
        if format == F32 || !scalar {
            expected.extend(["Add", "Average"].map(|kernel| format!("{kernel}<{format}>")));
        }
        if format != F32 && !scalar {
            expected.extend([format!("Move<{F32}, {format}>"), format!("Move<{format}, {F32}>")]);
        }
    }
    for format in [split, q8] {
        expected.extend(["Decode", "Encode"].map(|kernel| format!("{kernel}<{format}>")));
    }
    let others = ["fused::StoreStochastic", "statistics::Block", "sum::Add", "sum::Divide"];
    expected.extend(others.map(String::from));
    expected
}

const F32: &str = "f32";

/// Returns whether a kernel has no loop over elements, but calls kernels that have one.
fn drives_others(name: &str, scalar: bool) -> bool {
    let always = [
        "tiles::Step>",
        "::Accumulate>",
        "::UpdateEma>",
        "::Convert>",
        "::Blocks>",
        "::Bandwidth>",
        "::Sum>",
    ];
    let without_vectors = ["::Block>", "BareRow<", "FullRow<", "CodedStep<"];
    always.iter().any(|kernel| name.contains(kernel))
        || scalar && without_vectors.iter().any(|kernel| name.contains(kernel))
}

fn is_call(text: &str) -> bool {
    let mnemonic = text.split_whitespace().next().unwrap_or_default();
    mnemonic.starts_with("call") || mnemonic == "bl" || mnemonic == "blr"
}

/// Panics if a kernel calls anything but a kernel. Exception: the C library zeroes tiles.
fn check_driver(name: &str, lines: &[&str]) {
    for (line, text) in lines.iter().enumerate() {
        // A relocation follows a call and names the callee. For a call through a register, it is a kernel's address.
        let target = lines.get(line + 1).and_then(|next| next.strip_prefix("R_"));
        if let (true, Some(target)) = (is_call(text), target) {
            let demangled = target.split_whitespace().last().unwrap_or_default();
            let kernel = format!(
                "{:#}",
                rustc_demangle::demangle(demangled.split(['+', '-']).next().unwrap_or_default())
            );
            let known =
                kernel.contains(">::vectorize::enter") || ["memset", "memcpy"].contains(&kernel.as_str());
            assert!(known, "{name} calls {kernel}");
        }
    }
}

/// Panics if the function contains a call.
fn check_no_call(name: &str, lines: &[&str]) {
    for text in lines {
        assert!(!is_call(text), "{name} calls: {text}");
    }
}

/// Panics if the function does not use the backend's registers.
fn check_registers(name: &str, lines: &[&str], registers: &[&str]) {
    let vectorised = lines.iter().any(|text| holds_vector(text, registers));
    assert!(registers.is_empty() || vectorised, "{name} uses no register of {registers:?}");
}

/// Returns whether the instruction is not a jump and has one of these registers as an operand.
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

/// Builds the kernels as a user would, but with symbols that contain the types. Returns the library's path.
fn build(target: Option<&str>) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let directory = root.join("target").join("assembly");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(&root).args(["build", "--release", "--quiet", "-p", "lion-kernels", "--target-dir"]);
    cargo.arg(&directory).env("RUSTFLAGS", "-Csymbol-mangling-version=v0");
    if let Some(target) = target {
        cargo.args(["--target", target]);
    }
    // Another compiler may support the target.
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

/// Returns the instructions of each kernel's function, by its name in Rust.
fn kernels(listing: &str) -> BTreeMap<String, Vec<&str>> {
    let mut kernels = BTreeMap::<String, Vec<&str>>::new();
    let mut name = None;
    for line in listing.lines() {
        if let Some((_, symbol)) = line.strip_suffix(">:").and_then(|line| line.split_once('<')) {
            let demangled = format!("{:#}", rustc_demangle::demangle(symbol));
            name = demangled.contains(">::vectorize::enter").then_some(demangled);
        } else if let Some(name) = &name {
            // An instruction, or the relocation of the previous one.
            let instruction =
                line.split_once(":\t").or(line.split_once(": ").filter(|(_, text)| text.starts_with("R_")));
            if let Some((_, text)) = instruction {
                kernels.entry(name.clone()).or_default().push(text.trim());
            }
        }
    }
    kernels
}
