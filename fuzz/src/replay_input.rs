//! Arbitrary bytes as a recorded run. The reader returns an error, or the replay runs to its end.

use std::fs;

use lion::Lion;
use lion::replay::{self, Recording};

use crate::{JSON, bounded, scratch, tensor_file};

/// Runs the target on a fuzzer's bytes.
pub fn fuzz(bytes: &[u8]) {
    let input = scratch("recording");
    let file = tensor_file(bytes);
    fs::write(&input, &file).expect("written");
    bounded(JSON, file.len(), || {
        let Ok(run) = Recording::open(&input) else { return };
        let builder = Lion::builder().ema(0.9).gradient_accumulation_steps(2).global_clipnorm(1.0);
        let mut optimizer = builder.build().expect("valid");
        let ids = replay::register(&run, &mut optimizer).expect("a file's own shapes");
        let mut parameters = run.parameters().expect("data that there are");
        replay::run(&run, &mut optimizer, &ids, &mut parameters, |_| {}).expect("a valid run");
        replay::finalize(&mut optimizer, &ids, &mut parameters).expect("a valid run");
        assert_eq!(optimizer.iterations(), run.steps() as u64);
    });
}
