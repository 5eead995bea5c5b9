//! Trainings of any options on every backend of this machine against a plain model, by bits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lion_kernels::Backend;
use lion_tests::scenario::{Scenario, agrees_with_the_model};

fuzz_target!(|scenario: Scenario| {
    for backend in Backend::available() {
        agrees_with_the_model(&scenario, backend);
    }
});
