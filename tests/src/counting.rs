//! A counting allocator that can refuse large requests. Tests use it to measure memory and to test allocation failure.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with an account for each thread. A test takes it with `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Below zero where a thread frees what others have allocated.
    static BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    /// From how many bytes on a request is large, and how many large ones are still granted.
    static GRANTED: Cell<(usize, u32)> = const { Cell::new((usize::MAX, 0)) };
}

/// Whether this thread may have so much.
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
// SAFETY: every request goes to the system's allocator as it came, or is refused, which an allocator may do.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !grant(layout.size()) {
            return std::ptr::null_mut();
        }
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        BYTES.set(BYTES.get().saturating_add_unsigned(layout.size()));
        PEAK.set(PEAK.get().max(BYTES.get()));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get().saturating_sub_unsigned(layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// How often this thread has asked for memory.
pub fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// Does some work, and says how many bytes more than before it this thread had at any time.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = BYTES.get();
    PEAK.set(before);
    let done = work();
    (done, PEAK.get().abs_diff(before))
}

/// Does some work in which this thread is given `granted` times `large` bytes or more, and no memory of that size then.
pub fn with_memory_for<T>(granted: u32, large: usize, work: impl FnOnce() -> T) -> T {
    GRANTED.set((large, granted));
    let done = work();
    GRANTED.set((usize::MAX, 0));
    done
}
