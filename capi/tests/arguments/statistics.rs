//! Statistics of gradients that are not those of the next step.

use std::ptr;

use lion::Dtype;
use lion_c::*;

use crate::common::{Optimizer, VARIABLE, ok, options, refused, text};

const MEASURED: LionBlock = LionBlock { sum_of_squares: 2.0, non_finite: 0, max_abs: 1.0, measured: 1 };
const NOT_MEASURED: LionBlock = LionBlock { sum_of_squares: 0.0, non_finite: 0, max_abs: 0.0, measured: 0 };

#[test]
fn blocks() {
    let json = text(r#"{"global_clipnorm": 1}"#);
    let c = Optimizer::new(Some(&LionOptions { json: json.as_ptr(), ..options() }));
    c.register("a", &[2 * LION_BLOCK + 1], Dtype::F32, &VARIABLE);
    let mut found = [MEASURED; 3];
    let get = |variable, first, blocks: *mut LionBlock, n| {
        // SAFETY: the tests ask for no more than they have memory for, or are refused.
        unsafe { lion_statistics(c.0, variable, first, blocks, n) }
    };
    let add = |variable, first, blocks: &[LionBlock]| {
        // SAFETY: as many as there are.
        unsafe { lion_add_statistics(c.0, variable, first, blocks.as_ptr(), blocks.len()) }
    };
    ok(get(0, 0, found.as_mut_ptr(), 3));
    assert_eq!(found, [NOT_MEASURED; 3]);
    ok(get(0, 3, ptr::null_mut(), 0));
    refused(get(0, 2, ptr::null_mut(), 1), LION_ERROR_POINTER, "blocks is null");
    let odd = found.as_mut_ptr().wrapping_byte_add(4);
    refused(get(0, 2, odd, 1), LION_ERROR_POINTER, "blocks is misaligned");
    let beyond = |end: usize| {
        format!("the statistics are blocks 1..{end} of variable id 0, and must be within its 3 blocks")
    };
    refused(get(0, 1, found.as_mut_ptr(), 3), LION_ERROR_STEP, &beyond(4));
    refused(get(0, 1, found.as_mut_ptr(), usize::MAX), LION_ERROR_STEP, &beyond(usize::MAX));
    refused(add(0, 1, &[MEASURED; 3]), LION_ERROR_STEP, &beyond(4));
    assert_eq!(get(1, 0, found.as_mut_ptr(), 1), LION_ERROR_NAME);
    assert_eq!(add(u64::MAX, 0, &[MEASURED]), LION_ERROR_NAME);

    let wrong = |block: LionBlock, message: &str| {
        refused(add(0, 0, &[MEASURED, block]), LION_ERROR_VALUE, &format!("blocks[1].{message}"));
    };
    wrong(LionBlock { measured: 2, ..MEASURED }, "measured is 2; expected 0 or 1");
    wrong(LionBlock { sum_of_squares: -1.0, ..MEASURED }, "sum_of_squares is -1; expected 0 or more, or NaN");
    wrong(LionBlock { non_finite: 4097, ..MEASURED }, "non_finite is 4097; expected at most 4096");
    wrong(LionBlock { max_abs: f32::NAN, ..MEASURED }, "max_abs is NaN; expected 0 or more");
    ok(get(0, 0, found.as_mut_ptr(), 3));
    assert_eq!(found, [NOT_MEASURED; 3], "a call that failed has added nothing");

    ok(add(0, 1, &[MEASURED, NOT_MEASURED]));
    let message =
        "the statistics are block 1 of variable id 0, measured before, and must be given once in a step";
    refused(add(0, 0, &[MEASURED; 3]), LION_ERROR_STEP, message);
    ok(add(0, 0, &[MEASURED, NOT_MEASURED, MEASURED]));
    ok(get(0, 0, found.as_mut_ptr(), 3));
    assert_eq!(found, [MEASURED; 3]);
    // SAFETY: an optimizer.
    unsafe {
        ok(lion_begin(c.0, ptr::null()));
        let open = "step 0 is open: finish or abandon it first";
        refused(get(0, 0, found.as_mut_ptr(), 1), LION_ERROR_STEP, open);
        refused(add(0, 0, &[MEASURED]), LION_ERROR_STEP, open);
        ok(lion_abandon(c.0, ptr::null_mut()));
    }
    ok(get(0, 0, found.as_mut_ptr(), 3));
    assert_eq!(found, [NOT_MEASURED; 3], "the step has used them up");
}
