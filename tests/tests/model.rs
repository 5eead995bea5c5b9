//! The optimizer compared bit for bit with a plain model that shares no code with it, on random trainings.

use lion_kernels::Backend;
use lion_tests::scenario::{Scenario, agrees_with_the_model};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn trainings_end_as_in_the_model(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Some(scenario) = Scenario::from_bytes(&bytes) {
            for backend in Backend::available() {
                agrees_with_the_model(&scenario, backend);
            }
        }
    }
}
