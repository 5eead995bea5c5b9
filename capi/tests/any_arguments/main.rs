//! Arguments at random, most of them wrong: no call crashes, panics or returns a status that the header lacks, and a step
//! that fails changes nothing.
//!
//! What the header asks of the caller is upheld: memory is as long as the lengths say, texts end, optimizers live. Two
//! seconds long, or as many as `LION_C_SECONDS` says.

#![allow(unsafe_code)]

#[path = "../common/mod.rs"]
mod common;

mod optimizers;
mod parts;
mod steps;
mod values;

use std::ffi::CString;
use std::ptr;
use std::time::{Duration, Instant};

use common::last_error;
use lion_c::*;
use lion_tests::Rng;

const STATUSES: [LionStatus; 13] = [
    LION_OK,
    LION_ERROR_VALUE,
    LION_ERROR_NAME,
    LION_ERROR_FORMAT,
    LION_ERROR_TENSOR,
    LION_ERROR_STEP,
    LION_ERROR_STATE,
    LION_ERROR_IO,
    LION_ERROR_MEMORY,
    LION_ERROR_UNSUPPORTED,
    LION_ERROR_POINTER,
    LION_ERROR_BUSY,
    LION_OK,
];

/// Elements of the longest tensor.
const LONGEST: usize = 10_000;
/// Bytes of the memory that tensors lie in: a tensor of f32 fits wherever it begins in the first half.
const MEMORY: usize = 8 * LONGEST;

const SHAPES: [&[usize]; 3] = [&[2, 3], &[4100], &[]];
const DTYPES: [u32; 3] = [LION_F32, LION_BF16, LION_F16];

struct Driver {
    rng: Rng,
    optimizers: Vec<*mut LionOptimizer>,
    /// The caller's tensors; words, for their alignment.
    memory: Vec<u64>,
    texts: Vec<CString>,
    folder: tempfile::TempDir,
    calls: u64,
    worked: u64,
}

impl Driver {
    fn new(seed: u64) -> Self {
        let rng = Rng::with_seed(seed);
        let memory = vec![0; MEMORY / 8 + 8];
        let folder = tempfile::tempdir().expect("a folder");
        Driver { rng, optimizers: Vec::new(), memory, texts: Vec::new(), folder, calls: 0, worked: 0 }
    }

    fn optimizer(&mut self) -> *mut LionOptimizer {
        match self.optimizers.len() {
            0 => ptr::null_mut(),
            count if !self.one_in(50) => self.optimizers[self.rng.usize(..count)],
            _ => ptr::null_mut(),
        }
    }

    /// Runs a call, and looks at what it says.
    fn call(&mut self, name: &str, call: impl FnOnce() -> LionStatus) -> LionStatus {
        let status = call();
        assert!(STATUSES.contains(&status), "{name} returned {status}: {}", last_error());
        assert!(status == LION_OK || !last_error().is_empty(), "{name} has no message for {status}");
        self.calls += 1;
        self.worked += u64::from(status == LION_OK);
        status
    }

    fn run(&mut self) {
        self.texts.clear();
        let value = u64::from_le_bytes([self.rng.u8(..); 8]);
        let at = self.rng.usize(..self.memory.len());
        self.memory[at] = value;
        match self.rng.u32(..20) {
            _ if self.optimizers.is_empty() => self.build(),
            0 if self.optimizers.len() < 4 => self.build(),
            0 => {
                let index = self.rng.usize(..self.optimizers.len());
                let optimizer = self.optimizers.swap_remove(index);
                // SAFETY: it is not used again.
                let status = self.call("lion_free", || unsafe { lion_free(optimizer) });
                assert_eq!(status, LION_OK);
            }
            1 => {
                let (optimizer, index) = (self.optimizer(), self.rng.usize(..SHAPES.len()));
                self.register(optimizer, index);
            }
            2..10 => self.step(),
            10..14 => self.parts(),
            14..17 => self.alone(),
            _ => self.rest(),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        for &optimizer in &self.optimizers {
            // SAFETY: it is not used again.
            unsafe { lion_free(optimizer) };
        }
    }
}

#[test]
fn no_argument_crashes() {
    let seconds = std::env::var("LION_C_SECONDS").ok().and_then(|text| text.parse().ok());
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(2));
    let (mut seed, mut calls, mut worked) = (0, 0, 0);
    while Instant::now() < until {
        let mut driver = Driver::new(seed);
        for _ in 0..2000 {
            driver.run();
        }
        (calls, worked) = (calls + driver.calls, worked + driver.worked);
        seed += 1;
    }
    println!("{calls} calls, {worked} of which worked");
    assert!(worked > calls / 10 && worked < calls * 9 / 10, "{calls} calls, {worked} of which worked");
}
