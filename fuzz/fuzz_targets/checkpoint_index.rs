//! The target of this name, for libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lion_fuzz::checkpoint_index::fuzz(bytes));
