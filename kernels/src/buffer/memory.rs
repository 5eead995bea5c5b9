//! Zeroed memory without a type.
//!
//! A piece of 2 MiB or more is mapped from the operating system: its pages come zeroed and take no memory until they
//! are touched, by whichever thread works on them, it starts at a multiple of 2 MiB, so that huge pages fit into
//! it, and its end can be given back. Smaller pieces, and all on systems without mappings, are the allocator's.

use alloc::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use core::num::NonZeroUsize;
use core::ptr::NonNull;

use super::{HUGE_PAGE, LINE, PAGE};

/// An address that every element may have.
const ALIGNED: NonZeroUsize = NonZeroUsize::new(HUGE_PAGE).expect("is not zero");

#[derive(Debug)]
pub(super) struct Allocation {
    start: NonNull<u8>,
    size: usize,
    mapped: bool,
}

// SAFETY: memory is owned by one value, and is plain bytes.
unsafe impl Send for Allocation {}
// SAFETY: shared access to it is reading.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// The smallest size that is mapped; 0 where none is.
    pub(super) const MIN_MAPPED: usize = if sys::MAPS { HUGE_PAGE } else { 0 };

    pub(super) const fn empty() -> Self {
        // A dangling pointer, aligned as any other start.
        let start = NonNull::without_provenance(ALIGNED);
        Allocation { start, size: 0, mapped: false }
    }

    /// Zeros, starting at a multiple of 64 bytes, of 4 KiB or of 2 MiB where there are that many; `None` where they
    /// cannot be had.
    pub(super) fn zeroed(size: usize) -> Option<Self> {
        if size == 0 {
            return Some(Self::empty());
        }
        // No more than a slice may have, mapped or not.
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

    /// Gives back what lies beyond the first `size` bytes, where it is mapped.
    pub(super) fn shrink(&mut self, size: usize) {
        if let (true, Some(kept @ 1..)) = (self.mapped && size < self.size, sys::rounded(size)) {
            // SAFETY: whole pages within the mapping, of which more than none are kept.
            sys::unmap(unsafe { self.start.add(kept) }, self.size - kept);
            self.size = kept;
        }
    }

    /// What code does that cannot report that there is no memory.
    pub(super) fn abort_out_of_memory(size: usize) -> ! {
        handle_alloc_error(layout(size).unwrap_or(Layout::new::<u8>()))
    }

    /// Asks for huge pages, where there is room for one, or for none.
    pub(super) fn advise(&mut self, huge_pages: bool) {
        if self.mapped {
            // SAFETY: the mapping is this value's.
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
            // SAFETY: `zeroed` allocated this with the layout of this size.
            unsafe { dealloc(self.start.as_ptr(), layout) }
        }
    }
}

#[cfg(all(target_os = "linux", feature = "std"))]
mod sys {
    use core::ptr::{NonNull, null_mut};

    use super::HUGE_PAGE;

    pub(super) const MAPS: bool = true;

    /// A multiple of every size that Linux has for ordinary pages.
    const PAGES: usize = 64 << 10;

    /// In whole pages.
    pub(super) fn rounded(size: usize) -> Option<usize> {
        size.checked_next_multiple_of(PAGES)
    }

    /// Whole pages, at a multiple of 2 MiB: maps that much more, and gives back what lies before and behind.
    pub(super) fn map(size: usize) -> Option<NonNull<u8>> {
        let whole = size.checked_add(HUGE_PAGE)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, which touches no other.
        let address = unsafe { libc::mmap(null_mut(), whole, access, kind, -1, 0) };
        if address == libc::MAP_FAILED {
            return None;
        }
        let mapped = NonNull::new(address.cast::<u8>())?;
        let before = mapped.as_ptr().align_offset(HUGE_PAGE);
        // SAFETY: `before` is less than HUGE_PAGE, so both lie within the mapping.
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
        // SAFETY: the callers own these pages. Unmapping them can fail only where the system has no room to note
        // a hole in a mapping; they then stay mapped, which harms nothing.
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
