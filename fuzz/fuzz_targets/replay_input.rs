//! Any bytes as a recorded run: refused, or replayed to the end.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use lion::Lion;
use lion::replay::{self, Recording};
use lion_fuzz::{bounded, scratch, tensor_file};

fuzz_target!(|bytes: &[u8]| {
    let input = scratch("input");
    let file = tensor_file(bytes);
    fs::write(&input, &file).expect("written");
    bounded(file.len(), || {
        let Ok(run) = Recording::open(&input) else { return };
        let builder = Lion::builder().ema(0.9).gradient_accumulation_steps(2).global_clipnorm(1.0);
        let mut optimizer = builder.build().expect("valid");
        let ids = replay::register(&run, &mut optimizer).expect("a file's own shapes");
        let mut parameters = run.parameters().expect("data that there are");
        replay::run(&run, &mut optimizer, &ids, &mut parameters, |_| {}).expect("a valid run");
        replay::finalize(&mut optimizer, &ids, &mut parameters).expect("a valid run");
        assert_eq!(optimizer.iterations(), run.calls() as u64);
    });
});
