//! Structs of an older or a newer header.

use std::ptr;

use lion_c::*;

use crate::common::{METRICS, Optimizer, ok, options, refused, update};
use crate::optimizer;

#[test]
fn sizes_of_structs() {
    let mut made = ptr::null_mut();
    let with_size = |size: usize| LionOptions { struct_size: size, ..options() };
    for size in [0, 7, 12, 5000, usize::MAX] {
        // SAFETY: the sizes are refused before more is read.
        let status = unsafe { lion_new(&with_size(size), &raw mut made) };
        let message = format!("options.struct_size is {size}; expected sizeof(LionOptions)");
        refused(status, LION_ERROR_VALUE, &message);
    }

    // An older, shorter struct: the fields that it lacks have their defaults.
    let short = LionOptions { struct_size: 16, learning_rate: 0.25, beta_1: 77.0, ..options() };
    let c = Optimizer::new(Some(&short));
    assert_eq!(c.metrics().next_learning_rate, 0.25);

    // A newer, longer one, with what is unknown here at zero, and with something that is used.
    #[repr(C)]
    struct Newer {
        known: LionOptions,
        unknown: [u64; 2],
    }
    let mut newer = Newer { known: with_size(size_of::<Newer>()), unknown: [0; 2] };
    // SAFETY: as long as it says.
    unsafe {
        ok(lion_new((&raw const newer).cast(), &raw mut made));
        ok(lion_free(made));
        newer.unknown[1] = 1;
        let message = "options: a LionOptions of 72 bytes uses fields that this version lacks";
        refused(lion_new((&raw const newer).cast(), &raw mut made), LION_ERROR_UNSUPPORTED, message);
    }

    // What the library writes is as long as the caller says.
    let mut metrics = LionMetrics { struct_size: 16, iterations: 99, learning_rate: 9.0, ..METRICS };
    // SAFETY: shorter than the struct.
    ok(unsafe { lion_metrics(c.0, &raw mut metrics) });
    assert_eq!((metrics.struct_size, metrics.iterations, metrics.learning_rate), (16, 99, 9.0));

    // The structs of an array are as far apart as the first is long.
    let c = optimizer();
    let mut memory = [0.0_f32; 16];
    let (one, other) = memory.split_at_mut(8);
    let updates = [
        update(0, &mut one.into(), Some((&[1.0_f32; 8]).into())),
        LionUpdate { struct_size: 80, ..update(1, &mut (&mut other[..4]).into(), None) },
    ];
    refused(c.apply(&updates), LION_ERROR_VALUE, "updates[1].struct_size is 80; expected sizeof(LionUpdate)");
}
