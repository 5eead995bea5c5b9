//! Overhead of a call through the C ABI over the same call in Rust: steps of one tensor, timed in turn.
//!
//! ```text
//! cargo bench -p lion-c --bench overhead [-- SECONDS]
//! ```
//!
//! The library is loaded with `dlopen`, as in a C program, so that the C side pays for its own jumps and thread-local
//! storage. A sample is the time of a batch of calls on each side. Where a tensor lies within its pages changes the time by
//! more than the ABI does, so both sides step the same memory, and the samples come from several places. The report is the
//! median of the differences, with their quartiles.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::hint::black_box;
use std::mem::transmute_copy;
use std::ptr;
use std::time::{Duration, Instant};

use lion::{Dtype, Lion, Update};
use lion_c::{
    LION_F32, LION_OFF, LION_OK, LionOptimizer, LionOptions, LionStatus, LionStepTensors, LionUpdate,
};
use lion_kernels::{AlignedBuffer, Backend, LionStep, Plan, StepTensors, Task, run};

unsafe extern "C" {
    fn dlopen(file: *const c_char, mode: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

type New = unsafe extern "C" fn(*const LionOptions, *mut *mut LionOptimizer) -> LionStatus;
type Register = unsafe extern "C" fn(
    *mut LionOptimizer,
    *const c_char,
    *const usize,
    usize,
    u32,
    *const c_void,
    *mut u64,
) -> LionStatus;
type Apply = unsafe extern "C" fn(*mut LionOptimizer, *const LionUpdate, usize) -> LionStatus;
type Step = unsafe extern "C" fn(*const LionOptions, *const LionStepTensors, usize) -> LionStatus;

/// The shared library, which cargo has made beside this program.
struct Library(*mut c_void);

impl Library {
    fn open() -> Self {
        let path = std::env::current_exe().expect("a path");
        let path = path.parent().expect("a folder").join("liblion_c.so");
        let name = CString::new(path.to_str().expect("UTF-8")).expect("no zero within");
        const NOW: c_int = 2;
        // SAFETY: a text that ends with a zero; the library's initialisers are those of Rust.
        let library = unsafe { dlopen(name.as_ptr(), NOW) };
        assert!(!library.is_null(), "{}: cannot be loaded", path.display());
        Library(library)
    }

    /// # Safety
    /// `T` is the type of the function of that name.
    unsafe fn find<T: Copy>(&self, name: &str) -> T {
        let name = CString::new(name).expect("no zero within");
        // SAFETY: a library that is open, and a text that ends with a zero.
        let found = unsafe { dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null(), "{name:?} is not in the library");
        // SAFETY: by this function's contract; a function's address is as long as an object's.
        unsafe { transmute_copy(&found) }
    }
}

const CALLS: u32 = 500;
/// Places of the tensors within their pages.
const PLACES: usize = 16;
const PAGE: usize = 4096;

/// Nanoseconds of a call.
fn timed(mut call: impl FnMut()) -> f64 {
    let begin = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    begin.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

fn quartile(sorted: &[f64], quarter: usize) -> f64 {
    sorted.get(quarter * sorted.len().saturating_sub(1) / 4).copied().unwrap_or(f64::NAN)
}

/// Times of a call in Rust and in C, in nanoseconds, and their differences.
#[derive(Default)]
struct Samples {
    rust: Vec<f64>,
    c: Vec<f64>,
    differences: Vec<f64>,
}

impl Samples {
    fn take(&mut self, seconds: f64, mut rust: impl FnMut(), mut c: impl FnMut()) {
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        for round in 0_usize.. {
            if round >= 4 && Instant::now() >= until {
                break;
            }
            // Each side is first as often as second.
            let (one, other) = match round % 2 {
                0 => {
                    let one = timed(&mut rust);
                    (one, timed(&mut c))
                }
                _ => {
                    let other = timed(&mut c);
                    (timed(&mut rust), other)
                }
            };
            self.rust.push(one);
            self.c.push(other);
            self.differences.push(other - one);
        }
    }

    fn report(mut self, what: &str) {
        for list in [&mut self.rust, &mut self.c, &mut self.differences] {
            list.sort_by(f64::total_cmp);
        }
        println!(
            "{what}: Rust {:.1} ns, C {:.1} ns; C is {:+.1} ns [{:+.1}, {:+.1}] ({} samples of {CALLS} calls)",
            quartile(&self.rust, 2),
            quartile(&self.c, 2),
            quartile(&self.differences, 2),
            quartile(&self.differences, 1),
            quartile(&self.differences, 3),
            self.differences.len()
        );
    }
}

fn main() {
    // cargo bench adds arguments of its own.
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(5.0);
    let library = Library::open();
    // SAFETY: the types are those of lion.h.
    let (new, register, apply, step): (New, Register, Apply, Step) = unsafe {
        (
            library.find("lion_new"),
            library.find("lion_register"),
            library.find("lion_apply"),
            library.find("lion_step"),
        )
    };
    for len in [1024_usize, 16_384] {
        let mut optimizer = Lion::builder().build().expect("the defaults");
        let id = optimizer.register("a", &[len], Dtype::F32).expect("registered");
        let (mut handle, mut variable) = (ptr::null_mut(), 0);
        // SAFETY: right arguments, as lion.h has them.
        unsafe {
            assert_eq!(new(ptr::null(), &raw mut handle), LION_OK);
            let registered =
                register(handle, c"a".as_ptr(), &raw const len, 1, LION_F32, ptr::null(), &raw mut variable);
            assert_eq!(registered, LION_OK);
        }
        let options = LionOptions {
            struct_size: size_of::<LionOptions>(),
            learning_rate: 1e-3,
            beta_1: 0.9,
            beta_2: 0.99,
            weight_decay: LION_OFF,
            json: ptr::null(),
            plan: ptr::null(),
        };
        let (mut of_apply, mut of_step) = (Samples::default(), Samples::default());
        for place in 0..PLACES {
            let offset = place * PAGE / PLACES / size_of::<f32>();
            let mut tensors: [AlignedBuffer<f32>; 3] =
                std::array::from_fn(|_| AlignedBuffer::zeroed(PAGE + len).expect("memory"));
            let [parameter, gradient, momentum] =
                tensors.each_mut().map(|tensor| &mut tensor[offset..offset + len]);
            gradient.fill(1.0);
            let addresses =
                (parameter.as_mut_ptr().cast(), gradient.as_ptr().cast(), momentum.as_mut_ptr().cast());
            let seconds = seconds / PLACES as f64;

            let update = LionUpdate {
                struct_size: size_of::<LionUpdate>(),
                variable,
                parameter: addresses.0,
                gradient: addresses.1,
                len,
                parameter_dtype: LION_F32,
                gradient_dtype: LION_F32,
                range_start: 0,
                range_end: 0,
                source: ptr::null(),
                copy: ptr::null_mut(),
                copy_dtype: 0,
                reserved: 0,
            };
            of_apply.take(
                seconds,
                || {
                    let updates = &mut [Update::new(id, &mut parameter[..], &gradient[..])];
                    optimizer.apply(updates).expect("applied");
                },
                // SAFETY: the tensors live, and are nobody else's meanwhile.
                || assert_eq!(unsafe { apply(handle, &raw const update, 1) }, LION_OK),
            );

            let plan = Plan::new(Backend::best());
            let of_c = LionStepTensors {
                struct_size: size_of::<LionStepTensors>(),
                parameter: addresses.0,
                gradient: addresses.1,
                momentum: addresses.2,
                len,
                parameter_dtype: LION_F32,
                gradient_dtype: LION_F32,
                momentum_dtype: LION_F32,
                copy_dtype: 0,
                source: ptr::null(),
                copy: ptr::null_mut(),
            };
            of_step.take(
                seconds,
                || {
                    let [learning_rate, beta_1, beta_2] = black_box([1e-3, 0.9, 0.99]);
                    let hyperparameters = LionStep::new(learning_rate, beta_1, beta_2).expect("valid");
                    let tensors = StepTensors::in_place(&mut parameter[..], &gradient[..], &mut momentum[..]);
                    run(&plan, &mut [Task::step(hyperparameters, tensors).expect("fits")]).expect("done");
                },
                // SAFETY: as above.
                || assert_eq!(unsafe { step(&raw const options, &raw const of_c, 1) }, LION_OK),
            );
        }
        of_apply.report(&format!("lion_apply, {len} elements of f32"));
        of_step.report(&format!("lion_step, {len} elements of f32"));
    }
}
