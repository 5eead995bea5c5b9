//! The libFuzzer entry point of the target of this name.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lion_fuzz::checkpoint_index::fuzz(bytes));
