//! The memory of an optimizer: its state, plus at most 1 MiB. The allocator counts small blocks, and the system counts
//! large ones, which are mapped.
#![cfg(target_os = "linux")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use lion::Builder;
use lion::prelude::*;

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code)]
// SAFETY: every request goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Returns the size of this process's anonymous mappings, in bytes.
fn mapped() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux");
    let line = text.lines().find(|line| line.starts_with("Anonymous:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") << 10
}

/// A single test, so no other test allocates at the same time.
#[test]
fn state_and_at_most_a_mebibyte() {
    // The memory of rayon's threads does not count.
    rayon::broadcast(|_| ());
    let full = Lion::builder().ema(0.9).gradient_accumulation_steps(2).global_clipnorm(1.0);
    check(Lion::builder(), 1, 2000, 4096);
    check(full, 3, 500, 20_000);
}

fn check(builder: Builder, kinds: usize, tensors: usize, len: usize) {
    const SLACK: usize = 1 << 20;
    let mut parameters = vec![vec![1.0_f32; len]; tensors];
    let gradient = vec![0.5_f32; len];
    let names: Vec<String> = (0..tensors).map(|index| format!("layer.{index}")).collect();
    let mut ids = Vec::with_capacity(tensors);
    let own = tensors * size_of::<Update<'_>>();

    let (allocated, resident) = (ALLOCATED.load(Ordering::Relaxed), mapped());
    let mut optimizer = builder.build().expect("valid");
    for name in &names {
        ids.push(optimizer.register(name, &[len], Dtype::F32).expect("new"));
    }
    for _ in 0..4 {
        let pairs = parameters.iter_mut().zip(&ids);
        let mut updates: Vec<_> = pairs.map(|(p, &id)| Update::new(id, p, &gradient)).collect();
        optimizer.apply(&mut updates).expect("valid");
    }
    let state = kinds * 4 * tensors * len;
    let allocated = ALLOCATED.load(Ordering::Relaxed) - allocated;
    let resident = mapped() - resident;
    assert!(resident >= state, "all state has been touched");
    // The state is mapped; the rest is allocated, and its touched pages are resident too.
    assert!(allocated <= SLACK, "{allocated} bytes allocated");
    assert!(resident <= state + own + SLACK, "{resident} bytes resident, for {state} of state");
}
