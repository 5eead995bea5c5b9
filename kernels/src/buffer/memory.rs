//! Untyped, zeroed allocations: mapped from the operating system if they are large.
//!
//! An allocation of 2 MiB or more is mapped with `mmap`. Its pages are zero, and the system provides each page when a
//! thread first touches it, so the page lies on that thread's memory node. It starts at a multiple of 2 MiB, so that
//! huge pages fit, and its end can be unmapped. Smaller allocations, and all allocations on systems other than Linux,
//! come from Rust's allocator.

use alloc::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use core::num::NonZeroUsize;
use core::ptr::NonNull;

use super::{HUGE_PAGE, LINE, PAGE};

/// The dangling address of an empty allocation, aligned for every element.
const ALIGNED: NonZeroUsize = NonZeroUsize::new(HUGE_PAGE).expect("is not zero");

/// Owned, zeroed memory.
#[derive(Debug)]
pub(super) struct Allocation {
    start: NonNull<u8>,
    size: usize,
    mapped: bool,
}

// SAFETY: one value owns the memory, which is plain bytes.
unsafe impl Send for Allocation {}
// SAFETY: through a shared borrow the memory is only read.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// The smallest size that is mapped; 0 on systems without mappings.
    pub(super) const MIN_MAPPED: usize = if sys::MAPS { HUGE_PAGE } else { 0 };

    pub(super) const fn empty() -> Self {
        // Dangling, with the alignment of any other start.
        let start = NonNull::without_provenance(ALIGNED);
        Allocation { start, size: 0, mapped: false }
    }

    /// Allocates zeros at a multiple of 64 bytes, of 4 KiB from 4 KiB up, or of 2 MiB from 2 MiB up. Returns `None` if
    /// the allocation fails.
    pub(super) fn zeroed(size: usize) -> Option<Self> {
        if size == 0 {
            return Some(Self::empty());
        }
        // The layout rejects sizes beyond `isize::MAX`, for mappings too.
        let layout = layout(size)?;
        if size >= HUGE_PAGE && sys::MAPS {
            let size = sys::rounded(size)?;
            let start = sys::map(size)?;
            return Some(Allocation { start, size, mapped: true });
        }
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Allocation { start, size, mapped: false })
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Unmaps the pages beyond the first `size` bytes of a mapping.
    pub(super) fn shrink(&mut self, size: usize) {
        if let (true, Some(kept @ 1..)) = (self.mapped && size < self.size, sys::rounded(size)) {
            // SAFETY: the unmapped pages lie within the mapping, and at least one page stays.
            sys::unmap(unsafe { self.start.add(kept) }, self.size - kept);
            self.size = kept;
        }
    }

    /// Aborts on allocation failure, for callers that cannot return an error.
    pub(super) fn abort_out_of_memory(size: usize) -> ! {
        handle_alloc_error(layout(size).unwrap_or(Layout::new::<u8>()))
    }

    /// Turns huge pages on or off for a mapping.
    pub(super) fn advise(&mut self, huge_pages: bool) {
        if self.mapped {
            // SAFETY: this value owns the mapping.
            unsafe { super::pages::advise(self.start, self.size, huge_pages) };
        }
    }
}

fn layout(size: usize) -> Option<Layout> {
    let align = if size < PAGE {
        LINE
    } else if size < HUGE_PAGE {
        PAGE
    } else {
        HUGE_PAGE
    };
    Layout::from_size_align(size, align).ok()
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.mapped {
            sys::unmap(self.start, self.size);
        } else if let (Some(layout), true) = (layout(self.size), self.size > 0) {
            // SAFETY: `zeroed` allocated this memory with the layout of this size.
            unsafe { dealloc(self.start.as_ptr(), layout) }
        }
    }
}

#[cfg(all(target_os = "linux", feature = "std"))]
mod sys {
    use core::ptr::{NonNull, null_mut};

    use super::HUGE_PAGE;

    pub(super) const MAPS: bool = true;

    /// The largest base page size of Linux, a multiple of the others.
    const PAGES: usize = 64 << 10;

    /// Rounds up to whole pages.
    pub(super) fn rounded(size: usize) -> Option<usize> {
        size.checked_next_multiple_of(PAGES)
    }

    /// Maps whole pages at a multiple of 2 MiB: maps 2 MiB more, then unmaps the excess on both sides.
    pub(super) fn map(size: usize) -> Option<NonNull<u8>> {
        let whole = size.checked_add(HUGE_PAGE)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: an anonymous mapping at an address that the system chooses affects no other memory.
        let address = unsafe { libc::mmap(null_mut(), whole, access, kind, -1, 0) };
        if address == libc::MAP_FAILED {
            return None;
        }
        let mapped = NonNull::new(address.cast::<u8>())?;
        let before = mapped.as_ptr().align_offset(HUGE_PAGE);
        // SAFETY: `before` is less than HUGE_PAGE, so both addresses lie within the mapping.
        let (start, end) = unsafe { (mapped.add(before), mapped.add(before + size)) };
        if before > 0 {
            unmap(mapped, before);
        }
        if before < HUGE_PAGE {
            unmap(end, HUGE_PAGE - before);
        }
        Some(start)
    }

    pub(super) fn unmap(start: NonNull<u8>, size: usize) {
        // SAFETY: the callers own these pages. `munmap` fails only if the process reaches its limit of mappings; the
        // pages then stay mapped, which is a leak and harms nothing else.
        unsafe { libc::munmap(start.as_ptr().cast(), size) };
    }
}

#[cfg(not(all(target_os = "linux", feature = "std")))]
mod sys {
    use core::ptr::NonNull;

    pub(super) const MAPS: bool = false;

    pub(super) fn rounded(size: usize) -> Option<usize> {
        Some(size)
    }

    pub(super) fn map(_: usize) -> Option<NonNull<u8>> {
        None
    }

    pub(super) fn unmap(_: NonNull<u8>, _: usize) {}
}
