//! Tensors of a wrong dtype, length, range or place.

use std::ptr;

use lion_c::*;

use crate::common::{UPDATE, last_error, ok, refused};
use crate::optimizer;

#[test]
fn tensors() {
    let c = optimizer();
    let mut memory = [0.0_f32; 32];
    let gradient = [1.0_f32; 8];
    let base = memory.as_mut_ptr();
    let right = LionUpdate {
        parameter: base.cast(),
        gradient: gradient.as_ptr().cast(),
        len: 8,
        parameter_dtype: LION_F32,
        gradient_dtype: LION_F32,
        ..UPDATE
    };
    let wrong =
        |wrong: LionUpdate, status: LionStatus, message: &str| refused(c.apply(&[wrong]), status, message);
    let known = "expected one of 1 (f32), 2 (f16), 3 (bf16)";
    for (dtype, text) in [(0, "0"), (4, "4"), (u32::MAX, "4294967295")] {
        let message = |field: &str| format!("updates[0].{field} is {text}; {known}");
        wrong(LionUpdate { parameter_dtype: dtype, ..right }, LION_ERROR_VALUE, &message("parameter_dtype"));
        wrong(LionUpdate { gradient_dtype: dtype, ..right }, LION_ERROR_VALUE, &message("gradient_dtype"));
        let copy = LionUpdate { copy: base.wrapping_add(16).cast(), copy_dtype: dtype, ..right };
        wrong(copy, LION_ERROR_VALUE, &message("copy_dtype"));
    }
    wrong(
        LionUpdate { parameter_dtype: LION_F16, ..right },
        LION_ERROR_TENSOR,
        r#"variable "a": the parameter is f16, and was registered as f32"#,
    );
    wrong(
        LionUpdate { len: 7, ..right },
        LION_ERROR_TENSOR,
        r#"variable "a": the parameter has 7 elements, and its shape has 8"#,
    );
    let message = "updates[0].parameter is at ";
    assert_eq!(c.apply(&[LionUpdate { len: usize::MAX, ..right }]), LION_ERROR_POINTER);
    assert!(last_error().starts_with(message), "{}", last_error());
    wrong(
        LionUpdate { range_start: 2, range_end: 9, ..right },
        LION_ERROR_STEP,
        r#"variable "a": the range 2..9 must be within 0..8"#,
    );
    wrong(
        LionUpdate { variable: 2, ..right },
        LION_ERROR_NAME,
        "variable id 2 does not exist; 2 variables are registered",
    );
    let message = format!("variable id {} does not exist; 2 variables are registered", u64::MAX);
    wrong(LionUpdate { variable: u64::MAX, ..right }, LION_ERROR_NAME, &message);
    wrong(LionUpdate { reserved: 1, ..right }, LION_ERROR_VALUE, "updates[0].reserved is 1; expected 0");
    let no_gradient = LionUpdate { gradient: ptr::null(), ..right };
    wrong(no_gradient, LION_ERROR_STEP, "no variable of the step has a gradient");

    let apart = "overlap; expected separate memory for what is written";
    let of_itself = LionUpdate { gradient: base.wrapping_add(7).cast_const().cast(), ..right };
    wrong(of_itself, LION_ERROR_TENSOR, &format!("updates[0].parameter and updates[0].gradient {apart}"));
    let copy = LionUpdate { copy: base.wrapping_add(4).cast(), copy_dtype: LION_BF16, ..right };
    wrong(copy, LION_ERROR_TENSOR, &format!("updates[0].parameter and updates[0].copy {apart}"));
    let source = LionUpdate { source: base.wrapping_add(1).cast_const().cast(), ..right };
    wrong(source, LION_ERROR_TENSOR, &format!("updates[0].parameter and updates[0].source {apart}"));
    let b = |at: usize| LionUpdate {
        variable: 1,
        parameter: base.wrapping_add(at).cast(),
        len: 4,
        parameter_dtype: LION_BF16,
        gradient_dtype: LION_BF16,
        ..right
    };
    let message = format!("updates[1].parameter and updates[0].parameter {apart}");
    refused(c.apply(&[b(7), right]), LION_ERROR_TENSOR, &message);
    assert_eq!(memory, [0.0; 32]);
    // Gradients may be the same memory.
    ok(c.apply(&[b(8), right]));
    refused(
        c.apply(&[right, right]),
        LION_ERROR_TENSOR,
        &format!("updates[0].parameter and updates[1].parameter {apart}"),
    );
    let twice = LionUpdate { parameter: base.wrapping_add(16).cast(), ..right };
    refused(c.apply(&[right, twice]), LION_ERROR_STEP, r#"variable "a" is in the step twice"#);
    assert_eq!(memory[..8], [-0.5; 8]);
}
