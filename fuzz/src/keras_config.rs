//! Arbitrary text as a config. The reader returns an error of one line or a config. Writing and reading a config again
//! gives the same config.

use lion::{Config, Error, Lion};

use crate::{CONFIG, read};

/// A run over a fuzzer's bytes.
pub fn fuzz(bytes: &[u8]) {
    let Some((_, config)) = read(CONFIG, bytes, Config::from_json) else { return };
    config.check().expect("what is read is valid");
    let written = config.to_lion_json().expect("no closure comes from a file");
    assert_eq!(Config::from_json(&written).expect("what is written can be read"), config);
    // Keras's form has no key for these.
    let mut of_keras = config.clone();
    of_keras.exclude_from_weight_decay.clear();
    match (config.to_json(), config.to_bare_json()) {
        (Ok(whole), Ok(bare)) => {
            assert_eq!(whole, of_keras.to_lion_json().expect("no closure comes from a file"));
            assert_eq!(Config::from_json(&bare).expect("what is written can be read"), of_keras);
        }
        // Keras could not load it.
        (Err(Error::NotOfKeras { .. }), Err(Error::NotOfKeras { .. })) => {}
        other => panic!("{other:?}"),
    }
    let optimizer = Lion::from_config(config).expect("valid");
    // Schedules are asked at calls of every size.
    for call in [0, 1, 2, 1000, (1 << 24) + 1, u64::MAX] {
        let rate = optimizer.config().learning_rate.at(call);
        assert!(rate >= 0.0, "{rate} in call {call}");
    }
}
