//! Huge page advice to the operating system. A step streams through its tensors, and on 4 KiB pages the address
//! translation costs as much as the data.

use core::ptr::NonNull;

use super::HUGE_PAGE;
use crate::format::Element;

/// The result of [`advise_huge_pages`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HugePages {
    /// The number of aligned 2 MiB ranges within the memory.
    pub whole: usize,
    /// The number of these ranges that are huge pages now.
    pub collapsed: usize,
    /// Whether the system accepted the advice to convert the others in the background.
    pub advised: bool,
}

/// Converts memory that a framework owns to huge pages in place. The contents and addresses do not change.
///
/// Linux 6.1 and later converts at once, by copying (`MADV_COLLAPSE`). Older versions convert in the background
/// (`MADV_HUGEPAGE`). Other systems ignore the request. The call takes about as long as copying the memory once.
///
/// ```
/// let mut weights = vec![1.0_f32; 4 << 20];
/// let pages = lion_kernels::advise_huge_pages(&mut weights);
/// assert!(pages.whole == 7 || pages.whole == 8);
/// assert!(weights.iter().all(|&weight| weight == 1.0));
/// ```
pub fn advise_huge_pages<T: Element>(memory: &mut [T]) -> HugePages {
    let bytes = size_of_val(memory);
    // SAFETY: the memory is borrowed mutably.
    unsafe { advise_huge_pages_at(NonNull::from(memory).cast(), bytes) }
}

/// Like [`advise_huge_pages`], for memory that Rust does not own, initialised or not.
///
/// # Safety
/// The caller owns the `bytes` bytes from `start`.
pub unsafe fn advise_huge_pages_at(start: NonNull<u8>, bytes: usize) -> HugePages {
    let before = start.align_offset(HUGE_PAGE);
    let whole = bytes.saturating_sub(before) / HUGE_PAGE;
    if whole == 0 {
        return HugePages::default();
    }
    // SAFETY: the whole pages lie within the caller's memory.
    unsafe {
        let first = start.add(before);
        let advised = advise(first, whole * HUGE_PAGE, true);
        let collapsed = (0..whole).filter(|page| collapse(first.add(page * HUGE_PAGE))).count();
        HugePages { whole, collapsed, advised }
    }
}

/// Turns huge pages on or off for pages that are touched later. Returns whether the system accepted the advice.
///
/// # Safety
/// The caller owns the memory.
#[cfg(all(target_os = "linux", feature = "std"))]
pub(super) unsafe fn advise(start: NonNull<u8>, size: usize, huge: bool) -> bool {
    let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
    // SAFETY: by this function's contract; the advice changes no content.
    unsafe { libc::madvise(start.as_ptr().cast(), size, advice) == 0 }
}

/// Converts the 2 MiB from `start` to a huge page. Returns whether the system did so.
///
/// # Safety
/// The caller owns the memory.
#[cfg(all(target_os = "linux", feature = "std"))]
unsafe fn collapse(start: NonNull<u8>) -> bool {
    const MADV_COLLAPSE: i32 = 25;
    // SAFETY: by this function's contract; the advice changes no content.
    unsafe { libc::madvise(start.as_ptr().cast(), HUGE_PAGE, MADV_COLLAPSE) == 0 }
}

/// # Safety
/// None is needed here.
#[cfg(not(all(target_os = "linux", feature = "std")))]
pub(super) unsafe fn advise(_: NonNull<u8>, _: usize, _: bool) -> bool {
    false
}

/// # Safety
/// None is needed here.
#[cfg(not(all(target_os = "linux", feature = "std")))]
unsafe fn collapse(_: NonNull<u8>) -> bool {
    false
}
