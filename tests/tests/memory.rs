//! The memory of an optimizer: its state, and at most 1 MiB more. Counted by the allocator, and by the system, since
//! large state is mapped from it.
#![cfg(target_os = "linux")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use lion::prelude::*;

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code)]
// SAFETY: every request goes to the system's allocator as it came.
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

/// Anonymous memory of this process that is mapped, in bytes.
fn mapped() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux");
    let line = text.lines().find(|line| line.starts_with("Anonymous:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") << 10
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn state_and_at_most_a_mebibyte() {
    const TENSORS: usize = 1500;
    const LEN: usize = 5000;
    const SLACK: usize = 1 << 20;
    let mut parameters = vec![vec![1.0_f32; LEN]; TENSORS];
    let gradient = vec![0.5_f32; LEN];
    let names: Vec<String> = (0..TENSORS).map(|index| format!("layer.{index}")).collect();
    // Rayon's own threads are not the optimizer's memory.
    rayon::broadcast(|_| ());
    let mut ids = Vec::with_capacity(TENSORS);

    let (allocated, resident) = (ALLOCATED.load(Ordering::Relaxed), mapped());
    let builder = Lion::builder().ema(0.9).gradient_accumulation_steps(2).global_clipnorm(1.0);
    let mut optimizer = builder.build().expect("valid");
    for name in &names {
        ids.push(optimizer.register(name, &[LEN], Dtype::F32).expect("new"));
    }
    for _ in 0..4 {
        let tensors = parameters.iter_mut().zip(&ids);
        let mut updates: Vec<_> = tensors.map(|(p, &id)| Update::new(id, p, &gradient)).collect();
        optimizer.apply(&mut updates).expect("valid");
    }
    let state = 3 * 4 * TENSORS * LEN;
    let allocated = ALLOCATED.load(Ordering::Relaxed) - allocated;
    let resident = mapped() - resident;
    assert!(resident >= state, "all state has been touched");
    // Momentum, average and accumulators are mapped; the rest is allocated, and resident too where it is touched.
    assert!(allocated <= SLACK, "{allocated} bytes allocated");
    let own = TENSORS * size_of::<Update<'_>>();
    assert!(resident <= state + own + SLACK, "{resident} bytes resident, for {state} of state");
}
