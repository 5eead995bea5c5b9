//! Links the shared library with `-z nodelete`: its worker threads outlive a `dlclose`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let of_target = |key: &str| std::env::var(key).unwrap_or_default();
    let is_elf = !matches!(of_target("CARGO_CFG_TARGET_VENDOR").as_str(), "apple")
        && of_target("CARGO_CFG_TARGET_FAMILY") == "unix";
    if is_elf {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
