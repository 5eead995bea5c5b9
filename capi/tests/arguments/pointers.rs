//! Null and misaligned pointers, and memory of any kind.

use std::ptr;

use lion_c::*;

use crate::common::{ok, refused, update};
use crate::optimizer;

#[test]
fn pointers() {
    let c = optimizer();
    let mut memory = [0.0_f32; 16];
    let right = update(0, &mut (&mut memory[..8]).into(), None);
    let gradient = [1.0_f32; 8];
    let right = LionUpdate { gradient: gradient.as_ptr().cast(), gradient_dtype: LION_F32, ..right };
    let null = ptr::null_mut();
    // SAFETY: null is allowed, and the others are right.
    unsafe {
        refused(lion_apply(ptr::null_mut(), &raw const right, 1), LION_ERROR_POINTER, "optimizer is null");
        refused(
            lion_apply(c.0.wrapping_byte_add(1), &raw const right, 1),
            LION_ERROR_POINTER,
            "optimizer is misaligned",
        );
        refused(lion_apply(c.0, ptr::null(), 1), LION_ERROR_POINTER, "updates is null");
        let odd = (&raw const right).wrapping_byte_add(4);
        refused(lion_apply(c.0, odd, 1), LION_ERROR_POINTER, "updates is misaligned");
        ok(lion_apply(c.0, ptr::null(), 0));
        ok(lion_free(ptr::null_mut()));
        refused(lion_new(ptr::null(), ptr::null_mut()), LION_ERROR_POINTER, "optimizer is null");
        let mut made = ptr::null_mut();
        refused(lion_new_from_config(ptr::null(), &raw mut made), LION_ERROR_POINTER, "json is null");
        refused(lion_metrics(c.0, ptr::null_mut()), LION_ERROR_POINTER, "metrics is null");
        refused(lion_set(c.0, ptr::null(), ptr::null()), LION_ERROR_POINTER, "name is null");
        refused(lion_save(c.0, ptr::null(), ptr::null(), 0), LION_ERROR_POINTER, "path is null");
        refused(lion_load(c.0, ptr::null(), ptr::null(), 0), LION_ERROR_POINTER, "path is null");
        refused(lion_options_init(ptr::null_mut(), 48), LION_ERROR_POINTER, "options is null");
        refused(lion_advise_huge_pages(null, 4, ptr::null_mut()), LION_ERROR_POINTER, "memory is null");
    }
    let wrong = |wrong: LionUpdate, message: &str| refused(c.apply(&[wrong]), LION_ERROR_POINTER, message);
    wrong(LionUpdate { parameter: null, ..right }, "updates[0].parameter is null");
    let misaligned = right.parameter.wrapping_byte_add(2);
    wrong(LionUpdate { parameter: misaligned, ..right }, "updates[0].parameter is misaligned");
    let misaligned = right.gradient.wrapping_byte_add(1);
    wrong(LionUpdate { gradient: misaligned, ..right }, "updates[0].gradient is misaligned");
    wrong(LionUpdate { source: misaligned, ..right }, "updates[0].source is misaligned");
    wrong(
        LionUpdate { copy: misaligned.cast_mut(), copy_dtype: LION_F16, ..right },
        "updates[0].copy is misaligned",
    );
    assert_eq!(memory, [0.0; 16]);
}

#[test]
fn huge_pages_of_any_memory() {
    let mut memory = vec![1_u8; 5 << 20];
    let mut pages =
        LionHugePages { struct_size: size_of::<LionHugePages>(), whole: 9, collapsed: 9, advised: 9 };
    // SAFETY: the memory lives, and the struct has its size.
    unsafe {
        ok(lion_advise_huge_pages(memory.as_mut_ptr().add(1).cast(), memory.len() - 1, &raw mut pages));
        assert!((1..=2).contains(&pages.whole) && pages.collapsed <= pages.whole && pages.advised <= 1);
        ok(lion_advise_huge_pages(memory.as_mut_ptr().cast(), 5, ptr::null_mut()));
        assert_eq!(
            lion_advise_huge_pages(memory.as_mut_ptr().cast(), usize::MAX, ptr::null_mut()),
            LION_ERROR_POINTER
        );
    }
    assert!(memory.iter().all(|&byte| byte == 1));
}
