//! Any text as a config: refused in one line, or read; and what is read is written and comes back.

use lion::{Config, Lion};

use crate::{JSON, read};

/// A run over a fuzzer's bytes.
pub fn fuzz(bytes: &[u8]) {
    let Some((_, config)) = read(JSON, bytes, Config::from_json) else { return };
    config.validate().expect("what is read is valid");
    for written in [config.to_json(), config.to_bare_json()] {
        let written = written.expect("no closure comes from a file");
        let again = Config::from_json(&written).expect("what is written can be read");
        assert_eq!(again, config);
        assert!(
            written == again.to_json().expect("written") || written == again.to_bare_json().expect("written")
        );
    }
    let optimizer = Lion::from_config(config).expect("valid");
    // Schedules are asked at calls of every size.
    for call in [0, 1, 2, 1000, (1 << 24) + 1, u64::MAX] {
        let rate = optimizer.config().learning_rate.at(call);
        assert!(rate >= 0.0, "{rate} in call {call}");
    }
}
