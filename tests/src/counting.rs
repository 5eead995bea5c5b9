//! A counting allocator that can refuse large requests. Tests use it to measure memory and to test allocation failure.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator with counters for each thread. A test installs it with `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Negative if a thread frees memory that others allocated.
    static BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    /// The minimum size of a large request, and the number of large requests that are still granted.
    static GRANTED: Cell<(usize, u32)> = const { Cell::new((usize::MAX, 0)) };
}

/// Returns whether this thread's request is granted.
fn grant(bytes: usize) -> bool {
    match GRANTED.get() {
        (large, _) if bytes < large => true,
        (_, 0) => false,
        (large, left) => {
            GRANTED.set((large, left - 1));
            true
        }
    }
}

#[allow(unsafe_code)]
// SAFETY: every request goes to the system's allocator unchanged, or fails, which an allocator may do.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !grant(layout.size()) {
            return std::ptr::null_mut();
        }
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        BYTES.set(BYTES.get().saturating_add_unsigned(layout.size()));
        PEAK.set(PEAK.get().max(BYTES.get()));
        // SAFETY: by the contract of the method, which the caller upholds.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get().saturating_sub_unsigned(layout.size()));
        // SAFETY: by the contract of the method, which the caller upholds.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Returns the number of this thread's allocations.
pub fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// Runs a function and returns the peak of this thread's additional bytes.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = BYTES.get();
    PEAK.set(before);
    let done = work();
    (done, PEAK.get().abs_diff(before))
}

/// Runs a function in which the first `granted` requests of `large` bytes or more succeed and all later ones fail.
pub fn with_memory_for<T>(granted: u32, large: usize, work: impl FnOnce() -> T) -> T {
    GRANTED.set((large, granted));
    let done = work();
    GRANTED.set((usize::MAX, 0));
    done
}
