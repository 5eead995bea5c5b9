//! Steps out of order.

use std::ptr;

use lion::Dtype;
use lion_c::*;

use crate::common::{Optimizer, VARIABLE, ok, options, refused, text, update};
use crate::optimizer;

#[test]
fn steps_out_of_order() {
    let c = optimizer();
    let mut memory = [0.0_f32; 8];
    let gradient = [1.0_f32; 8];
    let whole = update(0, &mut (&mut memory).into(), Some((&gradient).into()));
    let first = LionUpdate { len: 3, range_start: 0, range_end: 3, ..whole };
    // SAFETY: right structs, and tensors that live.
    unsafe {
        let not_open = "this step is not open: it was finished or abandoned, or is of another optimizer";
        refused(lion_part(c.0, &raw const whole, 1), LION_ERROR_STEP, not_open);
        refused(lion_finish(c.0), LION_ERROR_STEP, not_open);
        let mut ranges = 9;
        ok(lion_abandon(c.0, &raw mut ranges));
        assert_eq!(ranges, 0);
        ok(lion_begin(c.0, ptr::null()));
        assert_eq!(lion_begin(c.0, ptr::null()), LION_ERROR_STEP);
        assert_eq!(lion_apply(c.0, &raw const whole, 1), LION_ERROR_STEP);
        ok(lion_part(c.0, &raw const first, 1));
        assert_eq!(lion_part(c.0, &raw const whole, 1), LION_ERROR_STEP);
        ok(lion_abandon(c.0, &raw mut ranges));
        assert_eq!(ranges, 1);
        let mut range = LionRange { struct_size: size_of::<LionRange>(), variable: 9, start: 9, end: 9 };
        ok(lion_abandoned_range(c.0, 0, &raw mut range));
        assert_eq!((range.variable, range.start, range.end), (0, 0, 3));
        let message = "index is 1; expected less than the 1 ranges";
        refused(lion_abandoned_range(c.0, 1, &raw mut range), LION_ERROR_VALUE, message);
        assert_eq!(c.metrics().iterations, 0);
    }
    assert_eq!(memory, [-0.5, -0.5, -0.5, 0.0, 0.0, 0.0, 0.0, 0.0]);

    let json = text(r#"{"global_clipnorm": 1}"#);
    let c = Optimizer::new(Some(&LionOptions { json: json.as_ptr(), ..options() }));
    c.register("a", &[8], Dtype::F32, &VARIABLE);
    // SAFETY: as above.
    unsafe {
        assert_eq!(lion_begin(c.0, ptr::null()), LION_ERROR_STEP, "nothing has been measured");
        let gradient = LionGradient {
            struct_size: size_of::<LionGradient>(),
            variable: 0,
            gradient: gradient.as_ptr().cast(),
            len: 8,
            gradient_dtype: LION_F32,
            reserved: 0,
            range_start: 0,
            range_end: 0,
        };
        ok(lion_measure(c.0, &raw const gradient, 1));
        assert_eq!(lion_measure(c.0, &raw const gradient, 1), LION_ERROR_STEP, "measured before");
        ok(lion_begin(c.0, ptr::null()));
        ok(lion_part(c.0, &raw const whole, 1));
        ok(lion_finish(c.0));
    }
    let metrics = c.metrics();
    let known =
        LION_KNOWS_GRADIENT_NORM | LION_KNOWS_CLIPPED_NORM | LION_KNOWS_CLIPPED | LION_KNOWS_NON_FINITE;
    assert_eq!((metrics.outcome, metrics.known, metrics.clipped), (LION_UPDATED, known, 1));
    assert_eq!((metrics.gradient_norm, metrics.iterations), (8.0_f32.sqrt(), 1));
}
