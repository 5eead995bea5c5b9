//! The guide in `docs`: its table of contents names every page, and no link leads nowhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The targets of the links and images of a page, without those of the web and of its own sections.
fn links(page: &str) -> impl Iterator<Item = &str> {
    page.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://") && !target.starts_with('#'))
        .filter_map(|target| target.split('#').next())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn pages_of(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

#[test]
fn the_summary_names_every_page_of_the_guide() {
    let docs = repository().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).expect("a summary");
    let named: BTreeSet<_> = links(&summary).map(|page| docs.join(page)).collect();
    let there = pages_of(&docs).into_iter().filter(|page| !page.ends_with("SUMMARY.md")).collect();
    assert_eq!(named, there);
}

/// The site holds the folder `docs` alone.
#[test]
fn links_of_the_guide_stay_in_it() {
    let docs = repository().join("docs");
    for page in pages_of(&docs) {
        let text = fs::read_to_string(&page).expect("a page");
        for target in links(&text) {
            assert!(!target.starts_with(".."), "{}: {target} is not in the guide", page.display());
            assert!(docs.join(target).exists(), "{}: {target} does not exist", page.display());
        }
    }
}

#[test]
fn the_guide_names_every_option() {
    let page = fs::read_to_string(repository().join("docs/start.md")).expect("a page");
    for option in lion::options::TABLE {
        assert!(page.contains(&format!("`{}`", option.name)), "docs/start.md does not name {}", option.name);
    }
}

#[test]
fn links_of_the_readmes_lead_somewhere() {
    let mut count = 0;
    let folders =
        ["", "adapters", "adapters/burn", "adapters/candle", "adapters/ndarray", "autotune", "capi", "cli"];
    let further = ["distributed", "fuzz", "kernels", "lion", "mpi", "python", "python/docs"];
    for folder in folders.iter().chain(&further).map(|folder| repository().join(folder)) {
        for page in pages_of(&folder) {
            let text = fs::read_to_string(&page).expect("a page");
            for target in links(&text).filter(|target| !target.is_empty()) {
                assert!(folder.join(target).exists(), "{}: {target} does not exist", page.display());
                count += 1;
            }
        }
    }
    assert!(count > 40, "{count} links were found");
}
