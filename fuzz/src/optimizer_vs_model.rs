//! Random trainings with arbitrary options, on every backend of this machine. Each is compared bit for bit with a plain
//! model and with the same training in parts.

use arbitrary::{Arbitrary, Unstructured};
use lion_kernels::Backend;
use lion_tests::parts::agrees_in_parts;
use lion_tests::scenario::{Scenario, agrees_with_the_model};

/// A run over a fuzzer's bytes.
pub fn fuzz(bytes: &[u8]) {
    let Ok(scenario) = Scenario::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    for backend in Backend::available() {
        agrees_with_the_model(&scenario, backend);
        agrees_in_parts(&scenario, backend, bytes.len() as u64);
    }
}
