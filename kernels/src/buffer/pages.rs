//! Huge pages: a step streams through its tensors, and on pages of 4 KiB the translation of addresses costs as much as
//! the data.

use core::ptr::NonNull;

use super::HUGE_PAGE;
use crate::format::Element;

/// What [`advise_huge_pages`] achieved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HugePages {
    /// How many pages of 2 MiB lie wholly within the memory.
    pub whole: usize,
    /// How many of them are huge pages now.
    pub collapsed: usize,
    /// Whether the system was told to make the others so when it can.
    pub advised: bool,
}

/// Turns memory that a framework owns into huge pages where it lies, as far as the system lets it: Linux 6.1 and later
/// at once, by copying (`MADV_COLLAPSE`), an older one in the background (`MADV_HUGEPAGE`), another system not at
/// all. The contents stay as they are.
///
/// It takes about as long as copying the memory, once.
///
/// ```
/// let mut weights = vec![1.0_f32; 4 << 20];
/// let pages = lion_kernels::advise_huge_pages(&mut weights);
/// assert!(pages.whole == 7 || pages.whole == 8);
/// assert!(weights.iter().all(|&weight| weight == 1.0));
/// ```
pub fn advise_huge_pages<T: Element>(memory: &mut [T]) -> HugePages {
    let bytes = size_of_val(memory);
    // SAFETY: the memory is borrowed.
    unsafe { advise_huge_pages_at(NonNull::from(memory).cast(), bytes) }
}

/// As [`advise_huge_pages`], for memory that Rust does not own, initialised or not.
///
/// # Safety
/// The memory is the caller's, from `start` for so many bytes.
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

/// Asks for huge pages, or for ordinary ones, when the memory is next touched.
///
/// # Safety
/// The memory is the caller's.
#[cfg(all(target_os = "linux", feature = "std"))]
pub(super) unsafe fn advise(start: NonNull<u8>, size: usize, huge: bool) -> bool {
    let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
    // SAFETY: by this function's contract; the advice changes no content.
    unsafe { libc::madvise(start.as_ptr().cast(), size, advice) == 0 }
}

/// Makes the 2 MiB from `start` a huge page.
///
/// # Safety
/// The memory is the caller's.
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
