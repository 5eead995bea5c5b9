//! Arguments at random, most of them wrong: no call crashes, panics or returns a status that the header lacks, and a step
//! that fails changes nothing.
//!
//! What the header asks of the caller is upheld: memory is as long as the lengths say, texts end, optimizers live. Two
//! seconds long, or as many as `LION_C_SECONDS` says.

#![allow(unsafe_code)]

mod common;

use std::ffi::{CString, c_char, c_void};
use std::path::PathBuf;
use std::ptr;
use std::time::{Duration, Instant};

use common::{METRICS, last_error, options, text};
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

/// Structs as C lays them out, of whatever size they say.
struct Structs {
    words: Vec<u64>,
    count: usize,
}

impl Structs {
    fn address<T>(&mut self) -> *mut T {
        self.words.as_mut_ptr().cast()
    }
}

impl Driver {
    fn new(seed: u64) -> Self {
        let rng = Rng::with_seed(seed);
        let memory = vec![0; MEMORY / 8 + 8];
        let folder = tempfile::tempdir().expect("a folder");
        Driver { rng, optimizers: Vec::new(), memory, texts: Vec::new(), folder, calls: 0, worked: 0 }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(..n) == 0
    }

    /// A number that is mostly small, and sometimes anything.
    fn number(&mut self, below: usize) -> usize {
        match self.rng.u32(..40) {
            0 => usize::MAX - self.rng.usize(..3),
            1 => self.rng.usize(..),
            2 => isize::MAX as usize,
            _ => self.rng.usize(..below),
        }
    }

    fn float(&mut self) -> f64 {
        match self.rng.u32(..20) {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => f64::from_bits(self.rng.u64(..)),
            3 => -1.0,
            4 => 0.0,
            _ => self.rng.f64(),
        }
    }

    fn at(&mut self, bytes: usize) -> *mut c_void {
        self.memory.as_mut_ptr().wrapping_byte_add(bytes).cast()
    }

    /// The address of a tensor: mostly aligned.
    fn tensor(&mut self) -> *mut c_void {
        if self.one_in(20) {
            return ptr::null_mut();
        }
        let at = self.rng.usize(..MEMORY / 2);
        let at = if self.one_in(20) { at } else { at & !63 };
        self.at(at)
    }

    /// Elements for which there is memory.
    fn len(&mut self) -> usize {
        const USUAL: [usize; 7] = [0, 1, 6, 17, 4096, 5000, LONGEST];
        if self.one_in(10) { self.rng.usize(..=LONGEST) } else { USUAL[self.rng.usize(..USUAL.len())] }
    }

    fn dtype(&mut self) -> u32 {
        match self.rng.u32(..30) {
            0 => 0,
            1 => 4,
            2 => self.rng.u32(..),
            _ => self.rng.u32(1..=3),
        }
    }

    /// A text that lives until the next call.
    fn text(&mut self, usual: &[&str]) -> *const c_char {
        if self.one_in(30) {
            return ptr::null();
        }
        let mut bytes = usual[self.rng.usize(..usual.len())].as_bytes().to_vec();
        while self.one_in(4) {
            let at = self.rng.usize(..=bytes.len());
            match self.rng.u32(..3) {
                0 => bytes.insert(at, self.rng.u8(1..)),
                1 => bytes.truncate(at),
                _ if at < bytes.len() => bytes[at] = self.rng.u8(1..),
                _ => {}
            }
        }
        self.texts.push(CString::new(bytes).expect("no zero within"));
        self.texts.last().expect("it was pushed").as_ptr()
    }

    /// Structs of the size that the first word of the first one says, which is mostly right.
    fn structs<T: Copy>(&mut self, mut structs: Vec<T>) -> Structs {
        let own = size_of::<T>();
        let size = match self.rng.u32(..20) {
            0 => 8 * self.rng.usize(..own / 8),
            1 => own + 8 * self.rng.usize(..4),
            2 => self.rng.usize(..64),
            3 => self.number(4096),
            _ => own,
        };
        let unknown = if self.one_in(4) { self.rng.u64(..) } else { 0 };
        // A size that is refused is looked at in the first struct alone.
        let stride = if (8..=4096).contains(&size) { size.next_multiple_of(8) } else { own };
        let mut words = vec![0; structs.len() * stride / 8 + own / 8];
        for (index, one) in structs.iter_mut().enumerate() {
            let to = words.as_mut_ptr().wrapping_byte_add(index * stride);
            // The first one's size is that of the memory.
            let odd = index > 0 && self.one_in(20);
            // SAFETY: the list has room for each, and each begins with its size.
            unsafe {
                ptr::from_mut(one).cast::<usize>().write(if odd { self.rng.usize(..200) } else { size });
                ptr::copy_nonoverlapping(ptr::from_ref(one).cast::<u8>(), to.cast(), stride.min(own));
                if stride > own {
                    to.wrapping_byte_add(own).write(unknown);
                }
            }
        }
        Structs { words, count: structs.len() }
    }

    fn updates(&mut self) -> Structs {
        let count = self.rng.usize(..5);
        let updates = (0..count).map(|index| {
            let variable = if self.one_in(10) { self.number(6) } else { index };
            let (gradient, source, copy) = (self.one_in(8), !self.one_in(6), !self.one_in(6));
            let ranged = self.one_in(4);
            LionUpdate {
                struct_size: 0,
                variable: variable as u64,
                parameter: self.tensor(),
                gradient: if gradient { ptr::null() } else { self.tensor() },
                len: self.len(),
                parameter_dtype: self.dtype(),
                gradient_dtype: self.dtype(),
                range_start: if ranged { self.number(5000) } else { 0 },
                range_end: if ranged { self.number(LONGEST) } else { 0 },
                source: if source { ptr::null() } else { self.tensor() },
                copy: if copy { ptr::null_mut() } else { self.tensor() },
                copy_dtype: self.dtype(),
                reserved: self.one_in(40).into(),
            }
        });
        let updates = updates.collect();
        self.structs(updates)
    }

    /// What mostly fits the variables that `register` makes: variable i has `SHAPES[i]`, at a place of its own.
    fn right_updates(&mut self) -> Structs {
        let mut updates = Vec::new();
        for (index, shape) in SHAPES.iter().enumerate() {
            if self.one_in(8) {
                continue;
            }
            let (parameter, gradient) = (self.at(index * 20_000), self.at(60_000));
            updates.push(LionUpdate {
                struct_size: 0,
                variable: index as u64,
                parameter,
                gradient,
                len: shape.iter().product(),
                parameter_dtype: DTYPES[index],
                gradient_dtype: LION_BF16,
                ..common::UPDATE
            });
        }
        self.structs(updates)
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

    fn build(&mut self) {
        const JSON: [&str; 8] = [
            "{}",
            r#"{"global_clipnorm": 1}"#,
            r#"{"clipnorm": 0.5, "use_ema": true}"#,
            r#"{"dynamic_loss_scale": true, "gradient_accumulation_steps": 2}"#,
            r#"{"momentum_dtype": "bf16", "exclude_from_weight_decay": ["bias$", "("]}"#,
            r#"{"learning_rate": {"class_name": "CosineDecay", "config": {"initial_learning_rate": 1, "decay_steps": 9}}}"#,
            r#"{"ema_cadence": "every_update", "use_ema": true, "gradient_accumulation_steps": 3}"#,
            "[1, 2",
        ];
        const CONFIGS: [&str; 3] = [
            "{}",
            r#"{"module": "keras.optimizers", "class_name": "Lion", "config": {"learning_rate": 0.5}, "registered_name": null}"#,
            r#"{"learning_rate": 0.1, "weight_decay": 0.5, "clipvalue": 1.0}"#,
        ];
        let mut made = ptr::dangling_mut();
        let isa = self.text(&["scalar", "auto", "avx2", "neon"]);
        let plan = LionPlan {
            struct_size: 0,
            isa: if self.rng.bool() { ptr::null() } else { isa },
            threads: self.number(4),
            chunk_elements: self.number(9000),
            parallel_threshold: self.number(3),
        };
        let mut plan = self.structs(vec![plan]);
        let ordinary = !self.one_in(3);
        let json = self.text(&JSON);
        let wanted = LionOptions {
            struct_size: 0,
            learning_rate: if ordinary { 0.01 } else { self.float() },
            beta_1: if ordinary { 0.9 } else { self.float() },
            beta_2: if ordinary { 0.99 } else { self.float() },
            weight_decay: if ordinary { 0.1 } else { self.float() },
            json: if self.rng.bool() { ptr::null() } else { json },
            plan: if self.rng.bool() { ptr::null() } else { plan.address() },
        };
        let mut wanted = self.structs(vec![wanted]);
        let config = self.text(&CONFIGS);
        let from_config = self.one_in(4);
        // SAFETY: structs and texts as the header asks.
        let status = self.call("lion_new", || unsafe {
            match from_config {
                true => lion_new_from_config(config, &raw mut made),
                false => lion_new(wanted.address(), &raw mut made),
            }
        });
        match status {
            LION_OK => self.optimizers.push(made),
            _ => assert!(made.is_null() || made == ptr::dangling_mut()),
        }
        if status == LION_OK && !self.one_in(4) {
            for index in 0..SHAPES.len() {
                self.register(made, index);
            }
        }
    }

    fn register(&mut self, optimizer: *mut LionOptimizer, index: usize) {
        let mut shape: Vec<usize> = SHAPES[index].to_vec();
        if self.one_in(20) {
            shape = (0..self.rng.usize(..4)).map(|_| self.number(20)).collect();
        }
        // A state that memory cannot be had for is fine; one that takes long to be made is not.
        if shape.iter().try_fold(1_usize, |all, side| all.checked_mul(*side)).is_some_and(|all| all > 1 << 30)
        {
            shape.clear();
        }
        let wanted = LionVariableOptions {
            momentum_dtype: if self.one_in(4) { self.dtype() } else { 0 },
            exclude_from_weight_decay: self.one_in(4).into(),
            overwrite_with_gradient: self.one_in(8).into(),
            shard_start: if self.one_in(10) { self.number(10) } else { 0 },
            shard_end: if self.one_in(10) { self.number(5000) } else { 0 },
            ..common::VARIABLE
        };
        let mut wanted = self.structs(vec![wanted]);
        let name = self.text(&[["a", "b.bias", "c"][index]]);
        let dtype = if self.one_in(20) { self.dtype() } else { DTYPES[index] };
        let mut id = 0;
        // SAFETY: as in `build`.
        self.call("lion_register", || unsafe {
            lion_register(optimizer, name, shape.as_ptr(), shape.len(), dtype, wanted.address(), &raw mut id)
        });
    }

    fn step(&mut self) {
        let optimizer = self.optimizer();
        let mut updates = if self.one_in(3) { self.updates() } else { self.right_updates() };
        let count = updates.count;
        let kind = self.rng.u32(..7);
        let before = self.memory.clone();
        let whole = kind < 4;
        // SAFETY: as in `build`; tensors have memory wherever they begin.
        let status = self.call("lion_apply", || unsafe {
            let updates = updates.address();
            match kind {
                0..4 => lion_apply(optimizer, updates, count),
                4 => lion_finalize(optimizer, updates, count),
                _ => lion_part(optimizer, updates, count),
            }
        });
        if status != LION_OK {
            assert!(self.memory == before, "a failed step changed something: {}", last_error());
        } else if whole && !optimizer.is_null() {
            let mut metrics = METRICS;
            // SAFETY: a right struct.
            self.call("lion_metrics", || unsafe { lion_metrics(optimizer, &raw mut metrics) });
        }
    }

    fn parts(&mut self) {
        let optimizer = self.optimizer();
        let begin = LionBegin {
            struct_size: 0,
            only_overwrites: self.one_in(8).into(),
            elsewhere: self.one_in(4).into(),
        };
        let mut begin = self.structs(vec![begin]);
        let gradients = (0..self.rng.usize(..4)).map(|index| {
            let right = !self.one_in(3);
            LionGradient {
                struct_size: 0,
                variable: index as u64,
                gradient: self.tensor(),
                len: if right { SHAPES[index].iter().product() } else { self.len() },
                gradient_dtype: self.dtype(),
                reserved: 0,
                range_start: 0,
                range_end: if right { 0 } else { self.number(LONGEST) },
            }
        });
        let gradients = gradients.take(SHAPES.len()).collect();
        let mut gradients = self.structs(gradients);
        let count = gradients.count;
        let mut ranges = 0;
        let kind = self.rng.u32(..5);
        let index = self.number(3);
        // SAFETY: as in `step`.
        self.call("lion_begin", || unsafe {
            match kind {
                0 => lion_measure(optimizer, gradients.address(), count),
                1 => lion_begin(optimizer, begin.address()),
                2 => lion_finish(optimizer),
                3 => lion_abandon(optimizer, &raw mut ranges),
                _ => {
                    let mut range =
                        LionRange { struct_size: size_of::<LionRange>(), variable: 0, start: 0, end: 0 };
                    lion_abandoned_range(optimizer, index, &raw mut range)
                }
            }
        });
    }

    fn alone(&mut self) {
        let tensors = (0..self.rng.usize(..4)).map(|index| {
            let right = !self.one_in(3);
            let (parameter, momentum) = (self.at(8192 * index), self.at(8192 * index + 4096));
            let gradient = self.at(32_768);
            LionStepTensors {
                struct_size: 0,
                parameter: if right { parameter } else { self.tensor() },
                gradient: if right { gradient } else { self.tensor() },
                momentum: if right { momentum } else { self.tensor() },
                len: if right { 100 } else { self.len() },
                parameter_dtype: self.dtype(),
                gradient_dtype: self.dtype(),
                momentum_dtype: self.dtype(),
                copy_dtype: self.dtype(),
                source: if self.one_in(8) { self.tensor() } else { ptr::null() },
                copy: if self.one_in(8) { self.tensor() } else { ptr::null_mut() },
            }
        });
        let tensors = tensors.collect();
        let mut tensors = self.structs(tensors);
        let count = tensors.count;
        let wanted = LionOptions { learning_rate: self.float(), beta_1: self.float(), ..options() };
        let mut wanted = self.structs(vec![wanted]);
        let default = !self.one_in(3);
        let before = self.memory.clone();
        // SAFETY: as in `step`.
        let status = self.call("lion_step", || unsafe {
            lion_step(if default { ptr::null() } else { wanted.address() }, tensors.address(), count)
        });
        assert!(status == LION_OK || self.memory == before, "a failed step changed something");
    }

    fn rest(&mut self) {
        const NAMES: [&str; 5] = ["learning_rate", "beta_1", "beta_2", "weight_decay", "use_ema"];
        const VALUES: [&str; 5] = ["0.5", "null", "1e999", "\"text\"", r#"{"class_name": "CosineDecay"}"#];
        let optimizer = self.optimizer();
        let (name, value, number) = (self.text(&NAMES), self.text(&VALUES), self.float());
        let path: PathBuf = self.folder.path().join(["one", "other", "missing/one", ""][self.rng.usize(..4)]);
        let path = text(path.to_str().expect("UTF-8"));
        let mut parameters = if self.rng.bool() { self.right_updates() } else { self.updates() };
        let count = if self.rng.bool() { parameters.count } else { 0 };
        let memory = self.tensor();
        let (kind, threads, bytes) = (self.rng.u32(..7), self.number(5), self.rng.usize(..MEMORY / 2));
        let mut metrics = self.structs(vec![METRICS]);
        let host = self.rng.bool().then_some(host as unsafe extern "C" fn(_, _, _, _));
        // SAFETY: as in `step`; `host` needs no context.
        self.call("another call", || unsafe {
            match kind {
                0 => lion_set(optimizer, name, value),
                1 => lion_set_learning_rate(optimizer, number),
                2 => lion_save(optimizer, path.as_ptr(), parameters.address(), count),
                3 => lion_load(optimizer, path.as_ptr(), parameters.address(), count),
                4 => lion_set_parallel_for(optimizer, threads, host, ptr::null_mut()),
                5 => lion_advise_huge_pages(memory, bytes, ptr::null_mut()),
                _ => lion_metrics(optimizer, metrics.address()),
            }
        });
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

const SHAPES: [&[usize]; 3] = [&[2, 3], &[4100], &[]];
const DTYPES: [u32; 3] = [LION_F32, LION_BF16, LION_F16];

/// A host that runs its workers on the calling thread, the last ones first, and some that there are not.
///
/// # Safety
/// `run` and `work` are the library's, of a call that has not returned.
unsafe extern "C" fn host(_: *mut c_void, n: usize, run: LionWork, work: *mut c_void) {
    for worker in (0..n.saturating_add(2)).rev() {
        // SAFETY: the library's work.
        unsafe { run(work, worker) };
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
