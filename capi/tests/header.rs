//! The committed header is what cbindgen makes of the sources. With `LION_WRITE_HEADER=1` the test writes it.

use std::path::Path;

/// In the order of the header: what is used comes after what it uses.
const SOURCES: [&str; 16] = [
    "version.rs",
    "status.rs",
    "tensor.rs",
    "plan.rs",
    "options.rs",
    "optimizer.rs",
    "group.rs",
    "variable.rs",
    "update.rs",
    "metrics.rs",
    "statistics.rs",
    "parts.rs",
    "checkpoint.rs",
    "threads.rs",
    "step.rs",
    "memory.rs",
];

#[test]
fn the_header_is_that_of_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("a config");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root.join("src").join(source));
    }
    let mut made = Vec::new();
    builder.generate().expect("sources that cbindgen reads").write(&mut made);
    let made = String::from_utf8(made).expect("UTF-8");
    let header = root.join("include/lion.h");
    if std::env::var_os("LION_WRITE_HEADER").is_some() {
        std::fs::write(&header, &made).expect("written");
    }
    let committed = std::fs::read_to_string(&header).unwrap_or_default();
    assert!(
        committed == made,
        "include/lion.h is not that of the sources: LION_WRITE_HEADER=1 cargo test -p lion-c --test header"
    );
    for source in std::fs::read_dir(root.join("src")).expect("a folder") {
        let source = source.expect("a file");
        let text = std::fs::read_to_string(source.path()).expect("text");
        let listed = SOURCES.iter().any(|name| source.file_name() == **name);
        assert!(listed || !text.contains("no_mangle"), "{:?} is not in the list above", source.file_name());
    }
}
