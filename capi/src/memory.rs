//! Huge pages for memory that the caller owns.

use std::ffi::c_void;
use std::ptr::NonNull;

use crate::status::{Failure, LionStatus, guarded, silence_panics};
use crate::structs::{self, Struct};

/// The result of `lion_advise_huge_pages`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionHugePages {
    /// `sizeof(LionHugePages)`, which the caller sets.
    pub struct_size: usize,
    /// The number of pages of 2 MiB that lie wholly within the memory.
    pub whole: usize,
    /// The number of them that are huge pages now.
    pub collapsed: usize,
    /// 1 if the system was asked to convert the others in the background.
    pub advised: usize,
}

// SAFETY: `repr(C)`, words alone.
unsafe impl Struct for LionHugePages {
    const NAME: &'static str = "LionHugePages";
    const DEFAULT: Self =
        LionHugePages { struct_size: size_of::<Self>(), whole: 0, collapsed: 0, advised: 0 };
}

/// Turns the caller's memory into huge pages in place, as far as the system allows: Linux 6.1 and later at once, by copying;
/// older Linux in the background; other systems not at all. The contents do not change. A step on large tensors can then take
/// half the time. `pages` may be null.
///
/// # Safety
/// The caller owns the memory, for `bytes` bytes. `pages` is null, or begins with its size and is writable for as many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_advise_huge_pages(
    memory: *mut c_void,
    bytes: usize,
    pages: *mut LionHugePages,
) -> LionStatus {
    silence_panics();
    guarded(|| {
        let start = NonNull::new(memory.cast::<u8>()).ok_or_else(|| Failure::pointer("memory", "null"))?;
        if memory.addr().checked_add(bytes).is_none() || isize::try_from(bytes).is_err() {
            return Err(Failure::pointer("memory", "longer than the address space"));
        }
        if !pages.is_null() {
            // SAFETY: by this function's contract.
            unsafe { structs::size("pages", pages)? };
        }
        // SAFETY: by this function's contract.
        let found = unsafe { lion_kernels::advise_huge_pages_at(start, bytes) };
        if pages.is_null() {
            return Ok(());
        }
        let found = LionHugePages {
            whole: found.whole,
            collapsed: found.collapsed,
            advised: usize::from(found.advised),
            ..LionHugePages::DEFAULT
        };
        // SAFETY: by this function's contract.
        unsafe { structs::write("pages", pages, found) }
    })
}
