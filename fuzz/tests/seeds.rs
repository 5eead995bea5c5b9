//! Runs every committed input through its target.

use std::fs;
use std::path::Path;

macro_rules! seeds {
    ($($target:ident)+) => {
        $(
            #[test]
            fn $target() {
                let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(stringify!($target));
                let mut files = 0;
                for entry in fs::read_dir(&folder).expect("a folder of seeds") {
                    let path = entry.expect("an entry").path();
                    println!("{}", path.display());
                    lion_fuzz::$target::fuzz(&fs::read(&path).expect("a seed"));
                    files += 1;
                }
                assert!(files > 2, "{files} seeds");
            }
        )+

        #[test]
        fn no_target_is_forgotten() {
            let targets = [$(stringify!($target)),+];
            for folder in ["seeds", "fuzz_targets"] {
                let found = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("a folder");
                assert_eq!(found.count(), targets.len(), "{folder}");
            }
        }
    };
}

seeds! {
    checkpoint_index checkpoint_load keras_config optimizer_vs_model profile_parse replay_input schedule step_vs_reference
}
